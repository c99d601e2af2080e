//! Nodes that accept and never answer.

use crate::support::node::chat;
use crate::support::{Reply, TestGateway, TestNode, until};
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn one_that_goes_down_is_left_for_the_next() {
    for (reply, stream) in [(Reply::Never, false), (Reply::Never, true), (Reply::Head, false)] {
        let (bad, good) = (TestNode::with_model().await, TestNode::with_model().await);
        let gateway = TestGateway::start(&[&bad, &good], &[], "", "").await;
        bad.reply(reply);
        good.reply(Reply::Whole(200, chat("m", "hi")));
        let body = json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]});
        let asking = gateway.client.post("/v1/chat/completions", &body);
        let freezing = async {
            until("the node is asked", async || !bad.lock().asked.is_empty()).await;
            bad.lock().sick = true;
        };
        let (answer, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(20), asking), freezing);
        let answer = answer.expect("it waits for a node that is down");
        assert_eq!((answer.status, answer.json()), (200, chat("m", "hi")));
        assert_eq!(gateway.last_request().await["attempts"], 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_looks_healthy_has_until_the_requests_deadline() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &[], "max_wait_secs = 0.5", "").await;
    node.reply(Reply::Never);
    let began = Instant::now();
    let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let answer = gateway.client.post("/v1/chat/completions", &body).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("node_timeout")));
    assert!(!answer.header("retry-after").is_empty());
    assert!(began.elapsed() < Duration::from_secs(10));
}
