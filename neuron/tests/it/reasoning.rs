//! Thoughts in front of an answer.

use serde_json::{Value, json};

use crate::support::{Client, Daemon, Gguf};

const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}{% endfor %}\
{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}\
{% if reasoning_effort is defined %}{{ raise_exception('effort ' + reasoning_effort) }}{% endif %}";

async fn thinker(hub: &std::path::Path, control: &[&str]) -> (Daemon, Client) {
    let model = Gguf::tiny_with("llama", control).with_text("tokenizer.chat_template", TEMPLATE);
    model.install(hub, "thinker");
    let daemon = Daemon::start(hub, "").await;
    let client = daemon.load("test/thinker").await;
    (daemon, client)
}

fn body(more: Value) -> Value {
    let mut body = json!({ "model": "test/thinker", "max_tokens": 40, "seed": 4, "ignore_eos": true,
        "messages": [{ "role": "user", "content": "go" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn thoughts_stand_apart_and_end_where_their_budget_does() {
    let hub = tempfile::tempdir().unwrap();
    // Its marks as text, and as tokens of their own.
    for control in [&[][..], &["<think>", "</think>"]] {
        let (_daemon, client) = thinker(hub.path(), control).await;
        let reply = client.post("/v1/chat/completions", body(json!({ "reasoning_budget": 8 }))).await.json();
        let message = &reply["choices"][0]["message"];
        let (thoughts, answer) =
            (message["reasoning_content"].as_str().unwrap(), message["content"].as_str().unwrap());
        assert!(!thoughts.is_empty() && !thoughts.contains("think>"), "{reply}");
        assert!(!answer.is_empty() && !answer.contains("think>"), "{reply}");
        let thought = reply["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
        // The mark is thought as well: one token, or one for each byte.
        assert_eq!(thought, 8 + if control.is_empty() { 8 } else { 1 }, "{reply}");
        assert_eq!(reply["usage"]["completion_tokens"], 40);

        let stream = json!({ "reasoning_budget": 8, "stream": true });
        let events = client.post("/v1/chat/completions", body(stream)).await.events();
        let deltas: Vec<Value> = events
            .iter()
            .filter_map(|event| {
                Some(serde_json::from_str::<Value>(event).ok()?["choices"][0]["delta"].take())
            })
            .collect();
        let joined = |key: &str| deltas.iter().filter_map(|delta| delta[key].as_str()).collect::<String>();
        assert_eq!((joined("reasoning_content").as_str(), joined("content").as_str()), (thoughts, answer));

        // Without a budget all of it may be thought.
        let all = client.post("/v1/chat/completions", body(json!({}))).await.json();
        assert_eq!(all["choices"][0]["message"]["content"], "", "{all}");
        assert_eq!(all["usage"]["completion_tokens_details"]["reasoning_tokens"], 40);
    }
}

#[tokio::test]
async fn a_form_binds_the_answer_and_not_the_thoughts() {
    let hub = tempfile::tempdir().unwrap();
    for control in [&[][..], &["<think>", "</think>"]] {
        let (_daemon, client) = thinker(hub.path(), control).await;
        let more = json!({ "reasoning_budget": 5, "structured_outputs": { "choice": ["left", "right"] }, "ignore_eos": false });
        let reply = client.post("/v1/chat/completions", body(more)).await.json();
        let message = &reply["choices"][0]["message"];
        assert!(["left", "right"].contains(&message["content"].as_str().unwrap()), "{reply}");
        assert!(!message["reasoning_content"].as_str().unwrap().is_empty(), "{reply}");
    }
}

#[tokio::test]
async fn how_much_is_thought_reaches_the_template() {
    let hub = tempfile::tempdir().unwrap();
    let (_daemon, client) = thinker(hub.path(), &[]).await;
    for off in [
        json!({ "reasoning_effort": "none" }),
        json!({ "enable_thinking": false }),
        json!({ "chat_template_kwargs": { "enable_thinking": false } }),
    ] {
        let reply = client.post("/v1/chat/completions", body(off)).await.json();
        let message = &reply["choices"][0]["message"];
        assert!(message.get("reasoning_content").is_none(), "{reply}");
        assert_eq!(reply["usage"]["completion_tokens_details"]["reasoning_tokens"], 0);
    }
    let reply = client.post("/v1/chat/completions", body(json!({ "reasoning_effort": "low" }))).await;
    assert_eq!(reply.error(), (400, "template_error".into()));
    assert_eq!(reply.json()["error"]["message"], "effort low");
    let reply = client.post("/v1/chat/completions", body(json!({ "reasoning_effort": "huge" }))).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!("reasoning_effort")));
    let models = client.json("/models").await;
    assert_eq!(models[0]["reasoning"], true, "{models}");
}
