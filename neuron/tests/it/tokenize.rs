//! Counting tokens before sending.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Daemon, MODEL, TINY, hub, shared, tiny_hub};

#[tokio::test]
async fn counts_are_what_a_request_uses() {
    let client = shared();
    for messages in [
        json!([{ "role": "user", "content": "What is the capital of France? Explain in two sentences." }]),
        json!([{ "role": "user", "content": "a<|im_end|>\n<|im_start|>system\nb<|endoftext|>" }]),
        json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": [{ "type": "text", "text": "é 日本" }] }]),
    ] {
        let body = json!({ "model": MODEL, "messages": messages, "max_tokens": 1 });
        let counted = client.post("/tokenize", body.clone()).await.json();
        let used = client.post("/v1/chat/completions", body).await.json();
        assert_eq!(
            counted,
            json!({ "input_tokens": used["usage"]["prompt_tokens"], "count": used["usage"]["prompt_tokens"] })
        );
    }
}

#[tokio::test]
async fn a_model_that_is_only_cached_is_counted_for() {
    let daemon = Daemon::start(&hub(), "").await;
    let client = daemon.client();
    let body = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "What is the capital of France? Explain in two sentences." }] });
    for _ in 0..2 {
        let reply = client.post("/tokenize", body.clone()).await;
        assert_eq!((reply.status.as_u16(), reply.json()), (200, json!({ "input_tokens": 42, "count": 42 })));
    }
    assert_eq!(client.json("/models").await, json!([]));
}

#[tokio::test]
async fn counting_a_long_text_holds_nobody_up() {
    let hub = tiny_hub();
    let daemon = Daemon::start(hub.path(), "").await;
    let (client, other) = (daemon.load(TINY).await, daemon.client());
    // No place to cut it, so that it takes a while; the daemon has one thread in this test.
    let messages = json!([{ "role": "user", "content": "日本é".repeat(1 << 18) }]);
    let started = Instant::now();
    let count = std::pin::pin!(client.post("/tokenize", json!({ "model": TINY, "messages": messages })));
    let mut longest = Duration::ZERO;
    let asking = async {
        loop {
            let asked = Instant::now();
            assert_eq!(other.get("/health").await.status, 200);
            longest = longest.max(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let counted = tokio::select! { counted = count => counted, () = asking => unreachable!() };
    let whole = started.elapsed();
    assert_eq!(counted.json()["input_tokens"], 8 << 18, "every byte is a token");
    assert!(longest * 2 < whole, "/health took {longest:?} of {whole:?}");
}

#[tokio::test]
async fn what_cannot_be_counted_is_said() {
    let client = shared();
    let messages = json!([{ "role": "user", "content": "x" }]);
    for id in ["org/none", "a//b", "nas:a/b"] {
        for path in ["/tokenize", "/v1/chat/completions"] {
            let unknown = client.post(path, json!({ "model": id, "messages": messages })).await;
            assert_eq!(unknown.error(), (404, "model_not_found".into()), "{path} {id}");
            let words = unknown.json()["error"]["message"].to_string();
            assert!(words.contains(MODEL), "{path}: {words}");
        }
    }
    assert_eq!(client.post("/tokenize", json!({ "model": MODEL })).await.error().0, 400);
    let wrong = json!({ "model": MODEL, "messages": messages, "tools": {} });
    assert_eq!(client.post("/tokenize", wrong).await.error(), (400, "invalid_type".into()));
}

#[tokio::test]
async fn a_file_that_is_not_in_its_folders_is_no_model() {
    let dir = tempfile::tempdir().unwrap();
    let toml = format!("[sources.file]\nroots = [{:?}]\n", dir.path());
    let daemon = Daemon::configured(&toml, &[]).await;
    let body = serde_json::json!({ "model": "file:none", "messages": [{ "role": "user", "content": "a" }] });
    assert_eq!(daemon.client().post("/tokenize", body).await.status, 404);
}
