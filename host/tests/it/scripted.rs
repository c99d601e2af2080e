//! The official SDKs against a model that does what it is told: calls, thoughts, images, errors, retries.

use crate::support::gateway::TestGateway;
use crate::support::node::{Reply, TestNode, chat};
use crate::support::processes::{node, python};
use serde_json::{Value, json};

/// What the model says, whole or in pieces.
#[derive(Default)]
struct Says {
    thoughts: &'static str,
    words: String,
    /// Name and arguments.
    calls: Vec<(&'static str, Value)>,
}

fn texts(content: &Value) -> String {
    let parts = content.as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
    content.as_str().map_or_else(|| parts.collect::<Vec<_>>().join(" "), str::to_owned)
}

/// By the last message: tools' results are repeated, and a user's words are orders. `before`: how often it was asked
/// the same.
fn script(asked: &Value, before: usize) -> Reply {
    let messages = asked["messages"].as_array().unwrap();
    let last = messages.last().unwrap();
    if last["role"] == "tool" {
        let from = messages.iter().rposition(|m| m["role"] == "assistant").unwrap();
        let results: Vec<String> = messages[from + 1..].iter().map(|m| texts(&m["content"])).collect();
        return says(asked, Says { words: format!("it is {}", results.join(" and ")), ..Says::default() });
    }
    let order = texts(&last["content"]);
    let add = |a: u32, b: u32| ("add", json!({"a": a, "b": b}));
    let is_image =
        |m: &Value| m["content"].as_array().is_some_and(|c| c.iter().any(|p| p["type"] == "image_url"));
    match order.as_str() {
        "status 429" => error(429, "rate_limit_exceeded"),
        "status 500" => error(500, "server_error"),
        "status 503 once" if before == 0 => error(503, "overloaded"),
        "too long" => Reply::Whole(
            400,
            json!({"error": {"message": "long", "type": "invalid_request_error",
            "code": "context_length_exceeded", "param": "messages", "prompt_len": 9, "max": 8}}),
        ),
        "break" => {
            Reply::Broken(pieces(Says { words: "I was saying".into(), ..Says::default() })[..2].to_vec())
        }
        "call" => {
            says(asked, Says { calls: vec![add(1, 2)], words: "Let me see.".into(), ..Says::default() })
        }
        "call twice" => {
            says(asked, Says { calls: vec![add(1, 2), add(3, 4)], thoughts: "Two.", ..Says::default() })
        }
        "patch" => {
            says(asked, Says { calls: vec![("patch", json!({"input": "*** \"x\"\n"}))], ..Says::default() })
        }
        "find" => {
            says(asked, Says { calls: vec![("mcp__files__find", json!({"name": "x"}))], ..Says::default() })
        }
        "think" => says(asked, Says { thoughts: "Deep thought.", words: "42".into(), ..Says::default() }),
        "json" => {
            let schema = &asked["response_format"]["json_schema"]["schema"]["properties"];
            let fields: serde_json::Map<_, _> = schema
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| (name.clone(), json!("x")))
                .collect();
            says(asked, Says { words: Value::from(fields).to_string(), ..Says::default() })
        }
        _ if is_image(last) => says(asked, Says { words: "an image".into(), ..Says::default() }),
        other => says(asked, Says { words: format!("you said {other}"), ..Says::default() }),
    }
}

fn error(status: u16, code: &str) -> Reply {
    Reply::Whole(
        status,
        json!({"error": {"message": "as you wish", "type": code, "code": code, "param": null}}),
    )
}

fn says(asked: &Value, says: Says) -> Reply {
    if asked["stream"] == true {
        return Reply::Pieces(pieces(says));
    }
    let mut answer = chat("m", &says.words);
    let message = &mut answer["choices"][0]["message"];
    if !says.thoughts.is_empty() {
        message["reasoning_content"] = says.thoughts.into();
    }
    if !says.calls.is_empty() {
        let call = |(at, (name, arguments)): (usize, &(&str, Value))| {
            json!({"id": format!("call_{at}"), "type": "function",
            "function": {"name": name, "arguments": arguments.to_string()}})
        };
        message["tool_calls"] = says.calls.iter().enumerate().map(call).collect();
        answer["choices"][0]["finish_reason"] = "tool_calls".into();
    }
    Reply::Whole(200, answer)
}

/// A few characters each, as models talk; calls with their pieces mixed.
fn pieces(says: Says) -> Vec<String> {
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        format!(
            "data: {}\n\n",
            json!({"id": "c", "object": "chat.completion.chunk", "created": 1_764_000_000, "model": "m", "choices": [choice]})
        )
    };
    let cut = |text: &str| -> Vec<String> {
        let all: Vec<char> = text.chars().collect();
        all.chunks(3).map(|piece| piece.iter().collect()).collect()
    };
    let mut out = vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null)];
    out.extend(cut(says.thoughts).iter().map(|t| chunk(json!({"reasoning_content": t}), Value::Null)));
    out.extend(cut(&says.words).iter().map(|t| chunk(json!({"content": t}), Value::Null)));
    let mut calls: Vec<(usize, Vec<String>)> = Vec::new();
    for (at, (name, arguments)) in says.calls.iter().enumerate() {
        let begin = json!([{"index": at, "id": format!("call_{at}"), "type": "function", "function": {"name": name, "arguments": ""}}]);
        out.push(chunk(json!({"tool_calls": begin}), Value::Null));
        calls.push((at, cut(&arguments.to_string())));
    }
    let longest = calls.iter().map(|(_, pieces)| pieces.len()).max().unwrap_or(0);
    for round in 0..longest {
        for (at, pieces) in calls.iter().filter(|(_, pieces)| round < pieces.len()) {
            let piece = json!([{"index": at, "function": {"arguments": pieces[round]}}]);
            out.push(chunk(json!({"tool_calls": piece}), Value::Null));
        }
    }
    out.push(chunk(json!({}), if calls.is_empty() { "stop" } else { "tool_calls" }.into()));
    out.push(format!(
        "data: {}\n\n",
        json!({"model": "m", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})
    ));
    out.push("data: [DONE]\n\n".into());
    out
}

async fn start() -> (TestNode, TestGateway) {
    let model = TestNode::with_model().await;
    model.lock().script = Some(script);
    let gateway = TestGateway::start(&[&model], &["anthropic", "responses"], "", "").await;
    (model, gateway)
}

fn succeeds(mut command: std::process::Command) {
    let output = tokio::task::block_in_place(|| command.env("CORTEX_MODEL", "m").output()).unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", said(&output.stdout), said(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_python() {
    let (_model, gateway) = start().await;
    succeeds(python(
        &["-m", "unittest", "-v", "scripted_anthropic", "scripted_openai"],
        &gateway.client.base,
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_typescript() {
    let (_model, gateway) = start().await;
    succeeds(node(&["--test", "scripted.test.mts"], &gateway.client.base));
}
