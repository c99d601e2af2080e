//! Requests that cannot be served: each with a status, a code, and the field where there is one.

use serde_json::{Value, json};

use crate::support::{Daemon, MODEL, Reply, TINY, shared, tiny_hub};

async fn chat(body: Value) -> Reply {
    shared().post("/v1/chat/completions", body).await
}

fn hello(more: Value) -> Value {
    let mut body = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "hi" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn an_unknown_model_is_404_and_names_what_there_is() {
    let reply = chat(hello(json!({ "model": "org/none" }))).await;
    assert_eq!(reply.error(), (404, "model_not_found".into()));
    let error = &reply.json()["error"];
    assert!(error["message"].as_str().unwrap().contains(MODEL), "{error}");
    assert_eq!(error["param"], "model");
}

#[tokio::test]
async fn what_is_wrong_in_a_request_is_400_and_named() {
    let check = async |more: Value, param: &str, code: &str| {
        let reply = chat(hello(more)).await;
        assert_eq!(reply.error(), (400, code.to_owned()));
        assert_eq!(reply.json()["error"]["param"], param);
    };
    check(json!({ "model": null }), "model", "missing_required_parameter").await;
    check(json!({ "model": 1 }), "model", "invalid_type").await;
    check(json!({ "messages": "hi" }), "messages", "invalid_type").await;
    check(json!({ "temperature": "hot" }), "temperature", "invalid_type").await;
    check(json!({ "temperature": 3 }), "temperature", "invalid_value").await;
    check(json!({ "n": 33 }), "n", "invalid_value").await;
    check(json!({ "logprobs": 5 }), "logprobs", "invalid_type").await;
    let image =
        json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "x" } }] }]);
    check(json!({ "messages": image }), "messages[0].content[0]", "vision_unsupported").await;
}

#[tokio::test]
async fn a_body_that_is_not_json_is_400() {
    let client = shared();
    for (body, words) in [("{", "EOF"), ("", "EOF"), ("[]", "not an object"), ("\u{ff}", "expected value")] {
        let reply = client.post_raw("/v1/chat/completions", body).await;
        assert_eq!(reply.error(), (400, "invalid_json".into()));
        assert!(reply.json()["error"]["message"].as_str().unwrap().contains(words), "{:?}", reply.body);
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let reply = shared().post_raw("/v1/chat/completions", vec![b' '; (32 << 20) + 1]).await;
    assert_eq!(reply.error(), (413, "request_too_large".into()));
}

#[tokio::test]
async fn a_prompt_longer_than_the_window_is_400_with_both_lengths() {
    let messages = json!([{ "role": "user", "content": "word ".repeat(9000) }]);
    let reply = chat(hello(json!({ "messages": messages }))).await;
    assert_eq!(reply.error(), (400, "context_length_exceeded".into()));
    let error = &reply.json()["error"];
    assert!(error["prompt_len"].as_u64() > Some(9000), "{error}");
    assert_eq!((&error["max"], &error["param"]), (&json!(8192), &json!("messages")));
    let plain = json!({ "model": MODEL, "prompt": "word ".repeat(9000) });
    let reply = shared().post("/v1/completions", plain).await;
    assert_eq!(reply.error(), (400, "context_length_exceeded".into()));
    assert_eq!(reply.json()["error"]["param"], "prompt");
}

#[tokio::test]
async fn megabytes_are_refused_by_their_length_alone() {
    let hub = tiny_hub();
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.load(TINY).await;
    // Every byte of this would be a token of the tiny model; its longest stands for 12.
    let text = "日本é".repeat(3 << 20 >> 3);
    let messages = json!([{ "role": "user", "content": text }]);
    let chat = json!({ "model": TINY, "messages": messages });
    let plain = json!({ "model": TINY, "prompt": text });
    for (path, body) in [("/v1/completions", plain), ("/v1/chat/completions", chat)] {
        let reply = client.post(path, body).await;
        assert_eq!(reply.error(), (400, "context_length_exceeded".into()));
        let least = reply.json()["error"]["prompt_len"].as_u64().unwrap();
        assert_eq!(least, (3 << 20) / 12, "the tokens were counted");
    }
}

#[tokio::test]
async fn a_template_that_raises_is_400_in_its_own_words() {
    let hub = tempfile::tempdir().unwrap();
    let template = "{{ raise_exception('only tea is served here') }}";
    let model = crate::support::Gguf::tiny("llama").with_text("tokenizer.chat_template", template);
    model.install(hub.path(), "tiny");
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.load(TINY).await;
    let reply = client.post("/v1/chat/completions", hello(json!({ "model": TINY }))).await;
    assert_eq!(reply.error(), (400, "template_error".into()));
    assert_eq!(reply.json()["error"]["message"], "only tea is served here");
}

#[tokio::test]
async fn an_unloaded_model_is_404_again() {
    let hub = tiny_hub();
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.load(TINY).await;
    let body = hello(json!({ "model": TINY, "max_tokens": 2 }));
    assert_eq!(client.post("/v1/chat/completions", body.clone()).await.status, 200);
    client.post("/models/unload", json!({ "model_id": TINY })).await;
    assert_eq!(client.post("/v1/chat/completions", body).await.error(), (404, "model_not_found".into()));
}

#[tokio::test]
async fn a_text_model_makes_no_embeddings() {
    let reply = shared().post("/v1/embeddings", json!({ "model": MODEL, "input": "x" })).await;
    assert_eq!(reply.error(), (400, "embeddings_unsupported".into()));
    let reply = shared().post("/v1/embeddings", json!({ "model": "org/none", "input": "x" })).await;
    assert_eq!(reply.error().0, 404);
}
