//! Chat completions of the real model.

use serde_json::{Value, json};

use crate::support::{MODEL, shared};

fn question(more: Value) -> Value {
    // With a system prompt of its own, or the template adds one of 20 tokens.
    let mut body = json!({
        "model": MODEL, "temperature": 0, "max_tokens": 24,
        "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Capital of France?" }],
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn ask(more: Value) -> Value {
    let reply = shared().post("/v1/chat/completions", question(more)).await;
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    reply.json()
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[tokio::test]
async fn a_plain_answer_has_openais_shape() {
    let answer = ask(json!({})).await;
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], MODEL);
    assert!(
        answer["id"].as_str().unwrap().starts_with("chatcmpl-")
            && answer["created"].as_u64() > Some(1_700_000_000)
    );
    let choice = &answer["choices"][0];
    assert_eq!((&choice["index"], &choice["message"]["role"]), (&json!(0), &json!("assistant")));
    assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &Value::Null));
    assert_eq!(content(&answer), "The capital of France is Paris.");
    let usage = &answer["usage"];
    // Others ask the same of this daemon, so its one whole block of sixteen may be known already.
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!([0, 16].contains(&cached), "{cached}");
    let expected = json!({ "prompt_tokens": 21, "completion_tokens": 8, "total_tokens": 29,
        "prompt_tokens_details": { "cached_tokens": cached }, "completion_tokens_details": { "reasoning_tokens": 0 } });
    assert_eq!(usage, &expected);
}

#[tokio::test]
async fn a_stream_says_the_same_in_openais_chunks() {
    let more = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let reply = shared().post("/v1/chat/completions", question(more)).await;
    let mut events = reply.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let [first, middle @ .., last, usage] = &chunks[..] else { panic!("{chunks:?}") };

    assert!(
        chunks.iter().all(|chunk| chunk["id"] == first["id"] && chunk["object"] == "chat.completion.chunk")
    );
    assert_eq!(first["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    let words = middle.iter().map(|chunk| {
        assert_eq!((&chunk["choices"][0]["finish_reason"], &chunk["usage"]), (&Value::Null, &Value::Null));
        chunk["choices"][0]["delta"]["content"].as_str().unwrap()
    });
    assert_eq!(words.collect::<String>(), "The capital of France is Paris.");
    assert!(middle.len() > 3, "words come as they are made: {}", middle.len());
    assert_eq!(
        (&last["choices"][0]["delta"], &last["choices"][0]["finish_reason"]),
        (&json!({}), &json!("stop"))
    );
    assert_eq!((&usage["choices"], &usage["usage"]["total_tokens"]), (&json!([]), &json!(29)));
}

#[tokio::test]
async fn without_include_usage_there_is_none() {
    let reply =
        shared().post("/v1/chat/completions", question(json!({ "stream": true, "max_tokens": 2 }))).await;
    assert!(reply.events().iter().all(|event| !event.contains("usage")));
}

#[tokio::test]
async fn max_tokens_ends_an_answer() {
    for name in ["max_tokens", "max_completion_tokens"] {
        let answer = ask(json!({ name: 3 })).await;
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        assert_eq!((content(&answer), &answer["usage"]["completion_tokens"]), ("The capital of", &json!(3)));
    }
}

#[tokio::test]
async fn a_stop_string_ends_an_answer_and_is_not_in_it() {
    let answer = ask(json!({ "stop": ["nothing", "ance is"] })).await;
    let choice = &answer["choices"][0];
    assert_eq!((content(&answer), &choice["finish_reason"]), ("The capital of Fr", &json!("stop")));
    assert_eq!(choice["stop_reason"], "ance is");

    let reply =
        shared().post("/v1/chat/completions", question(json!({ "stream": true, "stop": "ance is" }))).await;
    let text = String::from_utf8(reply.body.to_vec()).unwrap();
    assert!(!text.contains("\"content\":\"ance") && text.contains("\"stop_reason\":\"ance is\""), "{text}");
}

#[tokio::test]
async fn a_seed_repeats_itself_and_no_seed_does_not() {
    let draw = async |seed: Value| {
        content(&ask(json!({ "temperature": 1.5, "seed": seed, "max_tokens": 12 })).await).to_owned()
    };
    let first = draw(json!(7)).await;
    assert_eq!(first, draw(json!(7)).await);
    let others = [draw(json!(8)).await, draw(Value::Null).await, draw(Value::Null).await];
    assert!(others.iter().any(|other| *other != first));
}

#[tokio::test]
async fn penalties_change_the_answer() {
    let plain = ask(json!({ "max_tokens": 16 })).await;
    let penalised = ask(json!({ "max_tokens": 16, "repetition_penalty": 1.8 })).await;
    assert_ne!(content(&plain), content(&penalised));
}

#[tokio::test]
async fn every_event_of_a_stream_is_whole_utf_8() {
    let messages = json!([{ "role": "user", "content": "Repeat exactly: 日本語 🦀🦀 Ünïcödé 東京 🎉" }]);
    let more = json!({ "messages": messages, "stream": true, "max_tokens": 30, "repetition_penalty": 1.05 });
    let reply = shared().post("/v1/chat/completions", question(more)).await;
    let mut text = String::new();
    for event in reply.events().iter().filter(|event| *event != "[DONE]") {
        let chunk: Value = serde_json::from_str(event).unwrap();
        text += chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
    }
    let before_cut = text.trim_end_matches('\u{fffd}');
    assert!(!before_cut.contains('\u{fffd}') && !before_cut.is_ascii(), "{text}");
}

#[tokio::test]
async fn parts_a_system_prompt_and_several_turns_are_understood() {
    let turns = json!([
        { "role": "developer", "content": [{ "type": "text", "text": "You answer in one word." }] },
        { "role": "user", "content": [{ "type": "text", "text": "Capital of France?" }] },
        { "role": "assistant", "content": "Paris." },
        { "role": "user", "content": [{ "type": "text", "text": "And of" }, { "type": "text", "text": "Italy?" }] },
    ]);
    let same = json!([
        { "role": "system", "content": "You answer in one word." },
        { "role": "user", "content": "Capital of France?" },
        { "role": "assistant", "content": "Paris." },
        { "role": "user", "content": "And of\nItaly?" },
    ]);
    let [answer, plain] = [
        ask(json!({ "messages": turns, "max_tokens": 8 })).await,
        ask(json!({ "messages": same, "max_tokens": 8 })).await,
    ];
    assert_eq!(content(&answer), content(&plain));
    let [first, second] = [&answer, &plain].map(|answer| answer["usage"].clone());
    assert_eq!(first["prompt_tokens"], second["prompt_tokens"]);
    // The second time the conversation is known, up to its last whole block of sixteen.
    assert_eq!(second["prompt_tokens_details"]["cached_tokens"], 32);
    let last = ask(json!({ "messages": [same[3].clone()], "max_tokens": 8 })).await;
    assert_ne!(
        last["usage"]["prompt_tokens"], plain["usage"]["prompt_tokens"],
        "earlier turns are in the prompt"
    );
}
