//! Several answers, how likely their tokens were, and ids beside the text.

use serde_json::{Value, json};

use crate::support::{MODEL, ids, shared};

fn chat(more: Value) -> Value {
    let mut body = json!({ "model": MODEL, "max_tokens": 6, "seed": 7,
        "messages": [{ "role": "user", "content": "Tell me something that I do not know yet about the moon and the sea." }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn plain(more: Value) -> Value {
    let mut body =
        json!({ "model": MODEL, "temperature": 0, "max_tokens": 3, "prompt": "The capital of France is" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn post(path: &str, body: Value) -> Value {
    let reply = shared().post(path, body).await;
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    reply.json()
}

#[tokio::test]
async fn several_answers_share_their_prompt() {
    let reply = post("/v1/chat/completions", chat(json!({ "n": 4 }))).await;
    let choices = reply["choices"].as_array().unwrap();
    let texts: Vec<&str> = choices.iter().map(|c| c["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(choices.iter().map(|c| c["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(texts.iter().any(|text| *text != texts[0]), "{texts:?}");
    // The prompt counts once, and every answer.
    let alone = post("/v1/chat/completions", chat(json!({}))).await;
    assert_eq!(reply["usage"]["prompt_tokens"], alone["usage"]["prompt_tokens"]);
    assert_eq!(reply["usage"]["completion_tokens"], 24);
    assert_eq!(
        alone["choices"][0]["message"]["content"], texts[0],
        "the first is what there is without others"
    );
    // As a stream, each in its own place.
    let events =
        shared().post("/v1/chat/completions", chat(json!({ "n": 4, "stream": true }))).await.events();
    let mut streamed = vec![String::new(); 4];
    let mut ends = 0;
    for chunk in events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok()) {
        let choice = &chunk["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        streamed[index] += choice["delta"]["content"].as_str().unwrap_or_default();
        ends += usize::from(choice["finish_reason"] == "length");
    }
    assert_eq!((streamed, ends), (texts.iter().map(|text| (*text).to_owned()).collect(), 4));
}

#[tokio::test]
async fn how_likely_tokens_were_is_told() {
    let reply =
        post("/v1/chat/completions", chat(json!({ "logprobs": true, "top_logprobs": 3, "temperature": 0 })))
            .await;
    let content = reply["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let text = reply["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(content.iter().map(|token| token["token"].as_str().unwrap()).collect::<String>(), text);
    for token in content {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(
            (top.len(), &top[0]["token"], &top[0]["logprob"]),
            (3, &token["token"], &token["logprob"])
        );
        let sum: f64 = top.iter().map(|t| t["logprob"].as_f64().unwrap().exp()).sum();
        assert!(sum > 0.0 && sum <= 1.0 + 1e-6, "{token}");
        assert!(top.windows(2).all(|pair| pair[0]["logprob"].as_f64() >= pair[1]["logprob"].as_f64()));
    }
    let none = post("/v1/chat/completions", chat(json!({}))).await;
    assert_eq!(none["choices"][0]["logprobs"], Value::Null);
    // A stream tells the same.
    let more = json!({ "logprobs": true, "top_logprobs": 3, "temperature": 0, "stream": true });
    let events = shared().post("/v1/chat/completions", chat(more)).await.events();
    let chunks = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
    let streamed: Vec<Value> = chunks
        .flat_map(|c| c["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default())
        .collect();
    assert_eq!(&streamed, content);
}

#[tokio::test]
async fn a_prompt_is_echoed_with_what_was_expected_of_it() {
    let reply =
        post("/v1/completions", plain(json!({ "echo": true, "logprobs": 2, "return_token_ids": true })))
            .await;
    let choice = &reply["choices"][0];
    let text = choice["text"].as_str().unwrap();
    assert!(text.starts_with("The capital of France is Paris"), "{text}");
    let logprobs = &choice["logprobs"];
    let tokens: Vec<&str> =
        logprobs["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(tokens.concat(), text);
    assert_eq!((tokens.len(), &logprobs["token_logprobs"][0]), (8, &Value::Null));
    for (n, token) in tokens.iter().enumerate().skip(1) {
        let logprob = logprobs["token_logprobs"][n].as_f64().unwrap();
        let top = logprobs["top_logprobs"][n].as_object().unwrap();
        assert_eq!(top.len(), 2);
        assert!(top.get(*token).is_none_or(|same| same.as_f64() == Some(logprob)), "{logprobs}");
        assert_eq!(logprobs["text_offset"][n], tokens[..n].concat().len());
    }
    assert_eq!(ids(&choice["prompt_token_ids"]), [504, 3575, 282, 4649, 314]);
    assert_eq!(choice["token_ids"].as_array().unwrap().len(), 3);
    // What the model expected does not depend on how it came to it: the same again out of the cache's reach,
    // without an answer, several at once, and as a stream.
    let scored = post(
        "/v1/completions",
        plain(json!({ "echo": true, "logprobs": 2, "max_tokens": 0,
        "prompt": ["The capital of France is", "The capital of France is Paris"] })),
    )
    .await;
    assert_eq!(scored["usage"]["completion_tokens"], 0);
    for n in [0, 1] {
        let told = scored["choices"][n]["logprobs"]["token_logprobs"].as_array().unwrap();
        assert_eq!((told.len(), &told[..5]), (5 + n, &logprobs["token_logprobs"].as_array().unwrap()[..5]));
    }
    let events = shared()
        .post("/v1/completions", plain(json!({ "echo": true, "logprobs": 2, "stream": true })))
        .await
        .events();
    let chunks: Vec<Value> = events.iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    let texts = chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str());
    assert_eq!(texts.collect::<String>(), text);
    let told = chunks
        .iter()
        .flat_map(|c| c["choices"][0]["logprobs"]["token_logprobs"].as_array().cloned().unwrap_or_default());
    assert_eq!(told.collect::<Vec<_>>(), *logprobs["token_logprobs"].as_array().unwrap());
}

#[tokio::test]
async fn ends_of_the_requests_own() {
    let reply = post("/v1/completions", plain(json!({ "max_tokens": 20, "stop_token_ids": [30] }))).await;
    let choice = &reply["choices"][0];
    assert_eq!(
        (&choice["text"], &choice["finish_reason"], &choice["stop_reason"]),
        (&json!(" Paris"), &json!("stop"), &json!(30))
    );
    let reply =
        post("/v1/completions", plain(json!({ "max_tokens": 20, "stop_token_ids": [30], "min_tokens": 4 })))
            .await;
    assert!(reply["usage"]["completion_tokens"].as_u64() >= Some(4), "{reply}");
    let reply = post("/v1/completions", plain(json!({ "logit_bias": { "7042": -100 } }))).await;
    assert!(!reply["choices"][0]["text"].as_str().unwrap().contains("Paris"), "{reply}");
}

#[tokio::test]
async fn tokens_go_both_ways() {
    let there = post("/tokenize", json!({ "model": MODEL, "prompt": "hello world 日本" })).await;
    assert_eq!(there["count"], there["tokens"].as_array().unwrap().len());
    let back = post("/detokenize", json!({ "model": MODEL, "tokens": there["tokens"] })).await;
    assert_eq!(back, json!({ "prompt": "hello world 日本" }));
    let reply = shared().post("/detokenize", json!({ "model": MODEL, "tokens": [1, 99_999_999] })).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!("tokens")));
}
