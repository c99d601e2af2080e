//! The end of a daemon.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use serde_json::json;

use crate::support::{Client, Daemon, Gguf, TINY};

async fn stream_of(client: &Client, max_tokens: u32) -> hyper::body::Incoming {
    let body = json!({ "model": TINY, "stream": true, "temperature": 0, "max_tokens": max_tokens,
        "messages": [{ "role": "user", "content": "x" }] });
    let request = client.request(http::Method::POST, "/v1/chat/completions");
    let mut body = client.open(request.body(Full::from(body.to_string())).unwrap()).await.into_body();
    body.frame().await.unwrap().unwrap();
    body
}

async fn daemon(drain: u32) -> (Daemon, tempfile::TempDir) {
    let hub = tempfile::tempdir().unwrap();
    Gguf::tiny("llama").with_number("llama.context_length", 4096).install(hub.path(), "tiny");
    let daemon = Daemon::start(hub.path(), &format!("[neuron]\ndrain_secs = {drain}")).await;
    (daemon, hub)
}

#[tokio::test]
async fn what_runs_may_finish() {
    let (daemon, _hub) = daemon(20).await;
    let client = daemon.load(TINY).await;
    let stream = stream_of(&client, 50).await;
    let started = Instant::now();
    let ((), rest) = tokio::join!(daemon.stop(), stream.collect());
    assert!(rest.unwrap().to_bytes().ends_with(b"data: [DONE]\n\n"));
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn what_runs_past_the_deadline_is_ended_with_an_error() {
    let (daemon, _hub) = daemon(0).await;
    let client = daemon.load(TINY).await;
    let stream = stream_of(&client, 4000).await;
    let ((), rest) = tokio::join!(daemon.stop(), stream.collect());
    let rest = String::from_utf8(rest.unwrap().to_bytes().to_vec()).unwrap();
    assert!(rest.contains("\"code\":\"shutting_down\"") && !rest.contains("[DONE]"), "{rest}");
}
