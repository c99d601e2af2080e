//! What a session's calls take in this process, host and guest.

use super::{Figures, ROUNDS, median};
use cortex::policy::{Generation, Kind, Message, PolicyEngine, Registry, Session, Sources};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Events of one measurement, in one stream.
const EVENTS: usize = 20_000;

pub fn measure(figures: &mut Figures) {
    let registry = Registry::new(
        Arc::new(PolicyEngine::new(None, 32 << 20).unwrap()),
        Arc::new(cortex::metrics::Metrics::new().unwrap()),
    );
    let dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/policies")];
    registry.configure(Sources { dirs, ..Sources::default() });
    for name in ["anthropic", "responses"] {
        let policy = registry.table().get(name, Kind::Translation).unwrap();
        let events = (0..ROUNDS).map(|_| event_ns(&policy, name));
        figures.insert(format!("event_ns_{name}"), median(events.collect()));
        let requests = (0..ROUNDS).map(|_| request_ms(&policy, name));
        figures.insert(format!("request_1mb_ms_{name}"), median(requests.collect()));
        let sessions = (0..ROUNDS).map(|_| session_us(&policy, name));
        figures.insert(format!("session_us_{name}"), median(sessions.collect()));
    }
}

fn asked(policy: &Arc<Generation>, body: &str) -> Session {
    let mut session = policy.session(0, 7).unwrap();
    let body = body.as_bytes().to_vec();
    session.request(Message { method: "POST".into(), body, ..Message::default() }).unwrap();
    session
}

fn small(name: &str) -> String {
    let messages = json!([{"role": "user", "content": "Which way does the wind blow?"}]);
    let list = if name == "responses" { "input" } else { "messages" };
    json!({"model": "m", "max_tokens": 128, "stream": true, list: messages}).to_string()
}

/// A chunk of 200 bytes with a few words.
fn event_ns(policy: &Arc<Generation>, name: &str) -> f64 {
    let mut session = asked(policy, &small(name));
    let chunk = json!({"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1_764_000_000, "model": "m",
        "choices": [{"index": 0, "delta": {"content": " fair winds and following"}, "finish_reason": null}]});
    let event = format!("data: {chunk}\n\n");
    assert!((190..=210).contains(&event.len()), "{}", event.len());
    let started = Instant::now();
    for _ in 0..EVENTS {
        std::hint::black_box(session.events(event.as_bytes()).unwrap());
    }
    started.elapsed().as_secs_f64() * 1e9 / EVENTS as f64
}

/// Opening a session and translating a small request: what every request pays.
fn session_us(policy: &Arc<Generation>, name: &str) -> f64 {
    let (body, calls) = (small(name), 500);
    let started = Instant::now();
    (0..calls).for_each(|_| drop(asked(policy, &body)));
    started.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
}

/// A coding agent's request of 1 MB: instructions, sixty tools, and a long loop of calls and their results.
fn request_ms(policy: &Arc<Generation>, name: &str) -> f64 {
    let body = agent(name);
    assert!((1_000_000..1_150_000).contains(&body.len()), "{}", body.len());
    let mut session = policy.session(0, 7).unwrap();
    let message = Message { method: "POST".into(), body: body.into_bytes(), ..Message::default() };
    let started = Instant::now();
    std::hint::black_box(session.request(message).unwrap());
    started.elapsed().as_secs_f64() * 1e3
}

fn agent(name: &str) -> String {
    let source = "    let view = fleet.view(&node).ok_or(\"it has left\")?; // line\n".repeat(70);
    let schema = json!({"type": "object", "properties": {"path": {"type": "string", "description": "Where it is. ".repeat(20)},
        "limit": {"type": "integer"}}, "required": ["path"]});
    let about = "Reads a file and gives its lines back. ".repeat(20);
    let turns = 190;
    match name {
        "responses" => {
            let tools: Vec<_> = (0..60).map(|n| json!({"type": "function", "name": format!("tool_{n}"), "description": about, "parameters": schema})).collect();
            let mut input =
                vec![json!({"role": "user", "content": [{"type": "input_text", "text": "Fix the build."}]})];
            for n in 0..turns {
                let id = format!("call_{n}");
                input.push(json!({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Let me see. ".repeat(20)}]}));
                input.push(json!({"type": "function_call", "call_id": id, "name": "tool_1", "arguments": "{\"path\":\"src/main.rs\"}"}));
                input.push(json!({"type": "function_call_output", "call_id": id, "output": source}));
            }
            json!({"model": "m", "instructions": about.repeat(20), "input": input, "tools": tools, "stream": true}).to_string()
        }
        _ => {
            let tools: Vec<_> = (0..60)
                .map(|n| json!({"name": format!("tool_{n}"), "description": about, "input_schema": schema}))
                .collect();
            let mut messages =
                vec![json!({"role": "user", "content": [{"type": "text", "text": "Fix the build."}]})];
            for n in 0..turns {
                let id = format!("toolu_{n}");
                messages.push(json!({"role": "assistant", "content": [{"type": "thinking", "thinking": "Let me see. ".repeat(20), "signature": ""},
                    {"type": "tool_use", "id": id, "name": "tool_1", "input": {"path": "src/main.rs"}}]}));
                messages.push(json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": [{"type": "text", "text": source}]}]}));
            }
            let system =
                json!([{"type": "text", "text": about.repeat(20), "cache_control": {"type": "ephemeral"}}]);
            json!({"model": "m", "max_tokens": 32000, "system": system, "messages": messages, "tools": tools, "stream": true}).to_string()
        }
    }
}
