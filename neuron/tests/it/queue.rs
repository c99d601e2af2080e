//! Several requests at once: order, bounds, clients that leave.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::support::{Client, Daemon, TINY, tiny_hub};

/// An answer that goes on until the window is full: the likeliest tokens of the tiny model never end one.
fn long(stream: bool) -> Value {
    json!({ "model": TINY, "stream": stream, "temperature": 0,
        "messages": [{ "role": "user", "content": "a b c" }] })
}

/// Less than an endless answer takes by itself (12 s), more than a busy machine needs to end one.
const SOON: Duration = Duration::from_secs(8);

async fn in_flight(client: &Client) -> (u64, u64) {
    let model = &client.json("/health").await["models"][0];
    (model["in_flight"].as_u64().unwrap(), model["queue_depth"].as_u64().unwrap())
}

/// Waits until the model's load is `expected`, which it has to be soon.
async fn until(client: &Client, expected: (u64, u64)) {
    let deadline = Instant::now() + SOON;
    loop {
        let now = in_flight(client).await;
        if now == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{now:?}, not {expected:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until the model is on its way out.
async fn until_unloading(client: &Client) {
    let deadline = Instant::now() + SOON;
    while !client.json("/models").await.to_string().contains("\"reason\":\"unloading\"") {
        assert!(Instant::now() < deadline, "it is not unloading");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Opens a stream and takes its first bytes.
async fn open(client: &Client) -> hyper::body::Incoming {
    let request = client.request(http::Method::POST, "/v1/chat/completions");
    let mut body = client.open(request.body(Full::from(long(true).to_string())).unwrap()).await.into_body();
    body.frame().await.unwrap().unwrap();
    body
}

/// A tiny model whose answers never end by themselves.
fn endless_hub() -> tempfile::TempDir {
    let hub = tiny_hub();
    let endless = crate::support::Gguf::tiny("llama").with_number("llama.context_length", 4096);
    endless.install(hub.path(), "tiny");
    hub
}

#[tokio::test]
async fn a_client_that_leaves_stops_its_answer() {
    let hub = endless_hub();
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.load(TINY).await;
    let stream = open(&client).await;
    until(&client, (1, 0)).await;
    drop(stream);
    until(&client, (0, 0)).await;
    // The device is free, not only the count of it.
    let short = json!({ "model": TINY, "max_tokens": 1, "messages": [{ "role": "user", "content": "x" }] });
    let next = tokio::time::timeout(SOON, client.post("/v1/chat/completions", short)).await;
    assert_eq!(next.unwrap().status, 200);
    daemon.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_waiting_gives_up_its_place() {
    let hub = endless_hub();
    // Another would run beside it, and wait for a moment only.
    let daemon = Daemon::start(hub.path(), "[engine]\nmax_sequences = 1").await;
    let client = daemon.load(TINY).await;
    let running = open(&client).await;
    {
        let waits = std::pin::pin!(client.post("/v1/chat/completions", long(false)));
        let queued = std::pin::pin!(until(&client, (1, 1)));
        let first = futures_util::future::select(waits, queued).await;
        assert!(matches!(first, futures_util::future::Either::Right(_)), "it was served");
    }
    until(&client, (1, 0)).await;
    drop(running);
    until(&client, (0, 0)).await;
}

#[tokio::test]
async fn an_unload_goes_on_when_its_client_leaves() {
    let hub = endless_hub();
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.load(TINY).await;
    let running = open(&client).await;
    {
        let unload = std::pin::pin!(client.post("/models/unload", json!({ "model_id": TINY })));
        let started = std::pin::pin!(until_unloading(&client));
        let first = futures_util::future::select(unload, started).await;
        assert!(
            matches!(first, futures_util::future::Either::Right(_)),
            "a running request was not waited for"
        );
    }
    // Time for the server to see that the connection is closed.
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(running);
    let again = client.post("/models/load", json!({ "model_id": TINY }));
    assert_eq!(tokio::time::timeout(SOON, again).await.expect("the model is not wedged").status, 200);
    assert_eq!(client.json("/models").await[0]["status"], "loaded");
}

#[tokio::test]
async fn past_the_bound_requests_are_refused_with_a_time_to_come_back() {
    let hub = endless_hub();
    let daemon = Daemon::start(hub.path(), "[engine]\nmax_sequences = 1\nmax_queue_depth = 1").await;
    let client = daemon.load(TINY).await;
    let running = open(&client).await;
    let short = json!({ "model": TINY, "max_tokens": 3, "messages": [{ "role": "user", "content": "x" }] });
    let waiting = client.post("/v1/chat/completions", short.clone());
    let rest = async {
        until(&client, (1, 1)).await;
        let refused = client.post("/v1/chat/completions", short.clone()).await;
        assert_eq!(refused.error(), (503, "overloaded".into()));
        assert_eq!(refused.json()["error"]["type"], "rate_limit_exceeded");
        assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u32>().is_ok());
        assert_eq!(client.json("/health").await["models"][0]["rejected_queue_full"], 1);
        drop(running);
    };
    let (waited, ()) = tokio::join!(waiting, rest);
    assert_eq!(waited.status, 200, "the one that waited is served");
}

#[tokio::test]
async fn waiting_too_long_is_a_503_and_not_a_broken_stream() {
    let hub = endless_hub();
    let daemon = Daemon::start(hub.path(), "[engine]\nqueue_timeout_secs = 0").await;
    let client = daemon.load(TINY).await;
    // With no patience at all even the first is refused, and as a status: nothing was promised yet.
    let reply = client.post("/v1/chat/completions", long(true)).await;
    assert_eq!(reply.error(), (503, "overloaded".into()));
    assert!(reply.headers.contains_key("retry-after"));
    assert_eq!(client.json("/health").await["models"][0]["rejected_timeout"], 1);
}

#[tokio::test]
async fn unloading_waits_for_what_runs_and_refuses_what_comes() {
    let hub = tiny_hub();
    crate::support::Gguf::tiny("qwen3").install(hub.path(), "other");
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.load(TINY).await;
    daemon.load("test/other").await;
    let running = open(&client).await;
    let unload = client.post("/models/unload", json!({ "model_id": TINY }));
    let rest = async {
        until_unloading(&client).await;
        let refused = client.post("/v1/chat/completions", long(false)).await;
        assert_eq!(refused.error(), (404, "model_not_found".into()));
        let words = refused.json()["error"]["message"].to_string();
        assert!(words.contains("loaded are: test/other"), "{words}");
        running.collect().await.unwrap().to_bytes()
    };
    let (unloaded, stream) = tokio::join!(unload, rest);
    assert_eq!(unloaded.status, 200);
    assert!(stream.ends_with(b"data: [DONE]\n\n"), "the stream came to its own end");
}

#[tokio::test]
async fn answers_of_models_side_by_side_do_not_mix() {
    let hub = tiny_hub();
    crate::support::Gguf::tiny("qwen3").install(hub.path(), "other");
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.load(TINY).await;
    daemon.load("test/other").await;
    let ask = async |model: &str, text: &str| {
        let messages = json!([{ "role": "user", "content": text }]);
        let body = json!({ "model": model, "temperature": 0, "max_tokens": 20, "messages": messages });
        client.post("/v1/chat/completions", body).await.json()["choices"][0]["message"]["content"].clone()
    };
    let alone = [ask(TINY, "one").await, ask("test/other", "one").await, ask(TINY, "two").await];
    let together = tokio::join!(ask(TINY, "one"), ask("test/other", "one"), ask(TINY, "two"));
    assert_eq!(alone, <[Value; 3]>::from(together));
}

#[tokio::test]
async fn an_unload_on_conditions_says_which_does_not_hold() {
    let hub = endless_hub();
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.client();
    let lease = json!({ "holder": "one", "ms": 60_000 });
    let loaded = client.post("/models/load", json!({ "model_id": TINY, "lease": lease })).await;
    assert_eq!(loaded.status, 200);
    let unload = async |more: Value| {
        let mut body = json!({ "model_id": TINY, "mode": "if_idle" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let reply = client.post("/models/unload", body).await;
        (reply.status.as_u16(), reply.json()["error"]["kind"].as_str().unwrap_or_default().to_owned())
    };
    let refused = |kind: &str| (409, kind.to_owned());
    let stream = open(&client).await;
    until(&client, (1, 0)).await;
    assert_eq!(unload(json!({ "holder": "one" })).await, refused("busy"));
    drop(stream);
    until(&client, (0, 0)).await;
    assert!(client.json("/health").await["models"][0]["idle_ms"].as_u64().unwrap() < 8_000);
    assert_eq!(unload(json!({ "holder": "two" })).await, refused("leased"));
    assert_eq!(unload(json!({})).await, refused("leased"));
    assert_eq!(unload(json!({ "holder": "one", "min_idle_ms": 600_000 })).await, refused("used"));
    let generation = client.json("/models").await[0]["generation"].as_u64().unwrap();
    let other = json!({ "holder": "one", "generation": generation + 1 });
    assert_eq!(unload(other).await, refused("generation"));
    let right = json!({ "holder": "one", "generation": generation, "min_idle_ms": 0 });
    assert_eq!(unload(right).await.0, 200);
    // The next load of it is another.
    client.post("/models/load", json!({ "model_id": TINY })).await;
    assert!(client.json("/models").await[0]["generation"].as_u64() > Some(generation));
    assert_eq!(unload(json!({ "mode": "whatever" })).await.0, 400);
}

#[tokio::test]
async fn an_unload_now_ends_what_runs_with_an_error() {
    let hub = endless_hub();
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.load(TINY).await;
    let stream = open(&client).await;
    until(&client, (1, 0)).await;
    let reply = client.post("/models/unload", json!({ "model_id": TINY, "mode": "now" })).await;
    assert_eq!(reply.status, 200);
    let rest = stream.collect().await.unwrap().to_bytes();
    let rest = String::from_utf8_lossy(&rest).into_owned();
    assert!(rest.contains("model_unloaded"), "{rest}");
    assert_eq!(client.json("/models").await, json!([]));
    let freed = client.post("/defrag", json!({})).await;
    assert!(freed.status == 200 && freed.json()["free_after_mb"].is_u64());
}
