//! Calls of tools, in every notation.

use serde_json::{Value, json};

use crate::support::{Client, Daemon, Gguf, MODEL, shared};

fn tool(name: &str, more: Value) -> Value {
    let mut function = json!({ "name": name, "description": "d", "parameters": { "type": "object",
        "properties": { "size": { "enum": ["small", "large"] }, "count": { "type": "integer", "minimum": 1, "maximum": 9 } },
        "required": ["size", "count"] } });
    function.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "type": "function", "function": function })
}

fn body(model: &str, more: Value) -> Value {
    let mut body = json!({ "model": model, "max_tokens": 500, "seed": 3, "messages": [{ "role": "user", "content": "go" }],
        "tools": [tool("order", json!({})), tool("cancel", json!({}))] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Names and arguments of the calls in an answer; what is called is called as its schema says.
fn calls(answer: &Value) -> Vec<(String, Value)> {
    let calls = answer["choices"][0]["message"]["tool_calls"].as_array().cloned().unwrap_or_default();
    let call = |call: &Value| {
        assert_eq!(call["type"], "function");
        assert!(call["id"].as_str().is_some_and(|id| id.len() >= 9), "{call}");
        let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        assert!(["small", "large"].contains(&arguments["size"].as_str().unwrap()), "{call}");
        assert!((1..=9).contains(&arguments["count"].as_u64().unwrap()), "{call}");
        (call["function"]["name"].as_str().unwrap().to_owned(), arguments)
    };
    calls.iter().map(call).collect()
}

/// What the same request gives as a stream, put together.
async fn streamed(client: &Client, mut body: Value) -> (Vec<(String, String)>, String) {
    body["stream"] = true.into();
    let events = client.post("/v1/chat/completions", body).await.events();
    let (mut calls, mut reason): (Vec<(String, String)>, _) = (Vec::new(), String::new());
    for event in events.iter().filter(|event| *event != "[DONE]") {
        let chunk: Value = serde_json::from_str(event).unwrap();
        let choice = &chunk["choices"][0];
        reason += choice["finish_reason"].as_str().unwrap_or_default();
        for delta in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = delta["index"].as_u64().unwrap() as usize;
            if let Some(name) = delta["function"]["name"].as_str() {
                assert_eq!(index, calls.len());
                calls.push((name.to_owned(), String::new()));
            }
            calls[index].1 += delta["function"]["arguments"].as_str().unwrap_or_default();
        }
    }
    (calls, reason)
}

/// A template of each notation, as far as it is told apart, and tokens that it writes.
const NOTATIONS: [(&str, &str, &[&str]); 8] = [
    ("hermes", "{{ tools }}<tool_call>", &[]),
    ("hermes-tokens", "{{ tools }}<tool_call>", &["<tool_call>", "</tool_call>"]),
    ("llama", "{{ tools }}<|python_tag|>", &[]),
    ("mistral", "{{ tools }}[TOOL_CALLS]", &["[TOOL_CALLS]"]),
    ("mistral-named", "{{ tools }}[TOOL_CALLS][ARGS]", &["[TOOL_CALLS]", "[ARGS]"]),
    ("deepseek", "{{ tools }}<｜tool▁calls▁begin｜>```json", &["<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>"]),
    ("deepseek-plain", "{{ tools }}<｜tool▁calls▁begin｜>", &[]),
    ("generic", "{% for m in messages %}{{ m.content }}{% endfor %}", &[]),
];

/// Weights are random: what comes is what is asked for, and nothing that a model has learned.
#[tokio::test]
async fn a_call_that_has_to_be_made_is_made_in_every_notation() {
    let hub = tempfile::tempdir().unwrap();
    for (name, template, control) in NOTATIONS {
        let model = Gguf::tiny_with("llama", control).with_text("tokenizer.chat_template", template);
        model.with_number("llama.context_length", 2048).install(hub.path(), name);
    }
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.client();
    for (name, ..) in NOTATIONS {
        let model = format!("test/{name}");
        daemon.load(&model).await;
        let one = json!({ "tool_choice": "required", "parallel_tool_calls": false });
        let reply = client.post("/v1/chat/completions", body(&model, one.clone())).await.json();
        assert_eq!(reply["choices"][0]["finish_reason"], "tool_calls", "{name}: {reply}");
        assert_eq!(reply["choices"][0]["message"]["content"], Value::Null, "{name}: {reply}");
        let whole = calls(&reply);
        assert_eq!(whole.len(), 1, "{name}: {reply}");
        let (parts, reason) = streamed(&client, body(&model, one)).await;
        let parts: Vec<(String, Value)> =
            parts.into_iter().map(|(n, a)| (n, serde_json::from_str(&a).unwrap())).collect();
        assert_eq!((parts, reason.as_str()), (whole, "tool_calls"), "{name}");
        // One by name.
        let named = json!({ "tool_choice": { "type": "function", "function": { "name": "cancel" } } });
        let reply = client.post("/v1/chat/completions", body(&model, named)).await.json();
        let called = calls(&reply);
        assert_eq!(called.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["cancel"], "{name}");
        // None may be made, or need be.
        for choice in ["none", "auto"] {
            let more = json!({ "tool_choice": choice, "max_tokens": 8 });
            let reply = client.post("/v1/chat/completions", body(&model, more)).await;
            assert_eq!((reply.status.as_u16(), calls(&reply.json()).len()), (200, 0), "{name}");
        }
        // Whatever is said, a strict tool that is called is called as its schema says.
        let strict = json!({ "tools": [tool("order", json!({ "strict": true }))], "max_tokens": 60 });
        let reply = client.post("/v1/chat/completions", body(&model, strict)).await;
        assert_eq!(reply.status, 200, "{name}: {:?}", reply.body);
    }
}

#[tokio::test]
async fn the_real_model_calls_and_answers() {
    let client = shared();
    let more = json!({ "tool_choice": "required", "parallel_tool_calls": false, "temperature": 0 });
    let first = client.post("/v1/chat/completions", body(MODEL, more)).await.json();
    assert_eq!(calls(&first).len(), 1, "{first}");
    // The call and what it gave go back, and the answer is words.
    let mut next = body(MODEL, json!({ "max_tokens": 12, "tool_choice": "none" }));
    let call = first["choices"][0]["message"].clone();
    let result =
        json!({ "role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": "done: order 17" });
    next["messages"].as_array_mut().unwrap().extend([call, result]);
    let reply = client.post("/v1/chat/completions", next).await;
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    assert!(!reply.json()["choices"][0]["message"]["content"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn tools_that_cannot_be_are_refused() {
    let check = async |more: Value, param: &str| {
        let reply = shared().post("/v1/chat/completions", body(MODEL, more)).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["error"]["param"]),
            (400, &json!(param)),
            "{:?}",
            reply.body
        );
    };
    check(json!({ "tools": [tool("a", json!({})), tool("a", json!({}))] }), "tools[1].function.name").await;
    check(json!({ "tool_choice": "must" }), "tool_choice").await;
    check(
        json!({ "tool_choice": { "type": "function", "function": { "name": "x" } } }),
        "tool_choice.function.name",
    )
    .await;
    let wrong = json!({ "strict": true, "parameters": { "type": "object", "not": {} } });
    check(json!({ "tools": [tool("a", wrong)] }), "tools").await;
    let both = json!({ "tool_choice": "required", "response_format": { "type": "json_object" } });
    check(both, "response_format").await;
}
