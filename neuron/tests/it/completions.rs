//! Plain completions.

use serde_json::{Value, json};

use crate::support::{MODEL, shared};

fn body(prompt: Value, more: Value) -> Value {
    let mut body = json!({ "model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 6 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn text_goes_on_without_a_template() {
    let client = shared();
    let prompt = "The capital of France is";
    let plain = client.post("/v1/completions", body(json!(prompt), json!({}))).await.json();
    assert_eq!((&plain["object"], &plain["usage"]["prompt_tokens"]), (&json!("text_completion"), &json!(5)));
    let text = plain["choices"][0]["text"].as_str().unwrap();
    assert!(text.starts_with(" Paris"), "{text}");

    // The same as ids, as an array of one, and as a stream.
    let ids = json!([504, 3575, 282, 4649, 314]);
    for prompt in [ids, json!([prompt])] {
        let other = client.post("/v1/completions", body(prompt, json!({}))).await.json();
        assert_eq!(other["choices"][0]["text"], text);
    }
    let more = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let mut events = client.post("/v1/completions", body(json!(prompt), more)).await.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let words = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str());
    assert_eq!(words.collect::<String>(), text);
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], 6);
}

#[tokio::test]
async fn what_cannot_be_done_is_said() {
    let check = async |prompt: Value, more: Value, param: &str| {
        let reply = shared().post("/v1/completions", body(prompt, more)).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!(param)));
    };
    check(Value::Null, json!({}), "prompt").await;
    check(json!(["a", 1]), json!({}), "prompt").await;
    check(json!(vec!["a"; 129]), json!({}), "prompt").await;
    check(json!(vec!["a"; 5]), json!({ "n": 32 }), "prompt").await;
    check(json!([999_999]), json!({}), "prompt").await;
    check(json!([]), json!({}), "prompt").await;
    check(json!(""), json!({}), "prompt").await;
    check(json!("a"), json!({ "echo": true, "suffix": "b" }), "echo").await;
    check(json!("a"), json!({ "suffix": "b" }), "suffix").await;
}
