//! How the gateway ends while it serves.

use crate::support::node::{chunk, ending};
use crate::support::{Reply, TestGateway, TestNode, until};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, mpsc};

const DIALECTS: [(&str, &str); 2] =
    [("/v1/chat/completions", "data: {\"error\""), ("/v1/messages", "event: error\n")];

/// drain_secs is 1.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_outlast_the_drain_are_told() {
    let node = TestNode::with_model().await;
    let mut gateway = TestGateway::start(&[&node], &["anthropic"], "", "").await;
    let body = json!({"model": "m", "stream": true, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]});
    let mut running = Vec::new();
    for (path, error) in DIALECTS {
        let (feed, fed) = mpsc::channel(4);
        node.reply(Reply::Fed(Arc::new(Mutex::new(fed))));
        feed.send(chunk("m", "one")).await.unwrap();
        let mut stream = gateway.client.stream(path, &body).await;
        assert!(stream.next().await.unwrap().contains("one"));
        running.push((feed, stream, error));
    }
    node.reply(Reply::Never);
    let waits = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let client = gateway.client.clone();
    let waiting = crate::support::node::spawn(async move {
        let answer = client.post("/v1/chat/completions", &waits).await;
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("shutting_down")));
    });
    until("all three are asked", async || node.lock().asked.len() == 3).await;
    let began = Instant::now();
    gateway.gateway.shutdown.cancel();
    for (_feed, stream, error) in &mut running {
        let rest = stream.rest().await;
        let last = rest.trim_end().rsplit("\n\n").next().unwrap();
        assert!(last.starts_with(*error), "{rest}");
    }
    waiting.await.unwrap();
    (&mut gateway.serving).await.unwrap();
    let took = began.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_millis(1900), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_end_within_the_drain_are_whole() {
    let node = TestNode::with_model().await;
    let mut gateway = TestGateway::start(&[&node], &[], "", "").await;
    let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "x"}]});
    let (feed, fed) = mpsc::channel(4);
    node.reply(Reply::Fed(Arc::new(Mutex::new(fed))));
    feed.send(chunk("m", "one")).await.unwrap();
    let mut stream = gateway.client.stream("/v1/chat/completions", &body).await;
    stream.next().await.unwrap();
    gateway.gateway.shutdown.cancel();
    for piece in ending("m") {
        feed.send(piece).await.unwrap();
    }
    drop(feed);
    assert!(stream.rest().await.ends_with("data: [DONE]\n\n"));
    let ended = tokio::time::timeout(Duration::from_millis(900), &mut gateway.serving).await;
    ended.expect("it waits though nothing runs").unwrap();
}
