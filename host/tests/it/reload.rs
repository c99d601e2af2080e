//! Configuration and policies change while traffic flows.

use crate::support::gateway::{built_policy, config};
use crate::support::guest::Guest;
use crate::support::node::{chat, chunk, ending, info};
use crate::support::{Reply, TestGateway, TestNode};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc};

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_models_come_and_go_without_a_restart() {
    let (one, two) = (TestNode::start().await, TestNode::with_model().await);
    let gateway = TestGateway::start(&[&one], &[], "", "").await;
    std::fs::write(gateway.dir.path().join("cortex.toml"), config(&[&one, &two], "", "")).unwrap();
    std::fs::write(gateway.dir.path().join("models.toml"), "[[models]]\nid = \"new/model\"\n").unwrap();
    gateway.until("the second node is up", |s| s["nodes"][1]["state"] == "up").await;
    gateway.until("the catalogue is new", |s| s["models"] == json!(["new/model"])).await;
    two.reply(Reply::Whole(200, chat("m", "hi")));
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    assert_eq!(gateway.client.post("/v1/chat/completions", &body).await.status, 200);
    std::fs::write(gateway.dir.path().join("cortex.toml"), config(&[&one], "", "")).unwrap();
    gateway.until("the second node is gone", |s| s["nodes"].as_array().unwrap().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_changes_nothing_and_says_so() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &[], "", "").await;
    let good = config(&[&node], "", "");
    std::fs::write(gateway.dir.path().join("cortex.toml"), format!("{good}\n[routng]\n")).unwrap();
    let failed = |s: &serde_json::Value| s["config"]["last_reload"]["ok"] == false;
    let status = gateway.until("the reload failed", failed).await;
    let error = status["config"]["last_reload"]["error"].as_str().unwrap();
    assert!(error.contains("did you mean `routing`"), "{error}");
    assert_eq!(status["nodes"][0]["state"], "up");
    let metrics = gateway.metrics.get("/metrics").await.text();
    assert!(metrics.contains("cortex_config_reloads_total{outcome=\"refused\"} 1"), "{metrics}");
    std::fs::write(gateway.dir.path().join("cortex.toml"), good).unwrap();
    gateway.until("the error is gone", |s| !failed(s)).await;
}

/// Keys of `[gateway]` are in force without a restart, also for what is running already.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_gateways_alone_is_taken_up() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &[], "poll_interval_secs = 60.0", "").await;
    let new = config(&[&node], "poll_interval_secs = 0.1\nmax_wait_secs = 0.3\nbody_limit_mb = 1", "");
    std::fs::write(gateway.dir.path().join("cortex.toml"), new).unwrap();
    let status = gateway.until("it is reloaded", |s| s["config"]["last_reload"]["ok"] == true).await;
    assert_eq!(
        status["config"]["last_reload"]["changed"],
        "gateway.body_limit_mb, gateway.max_wait_secs, gateway.poll_interval_secs"
    );
    let large = "x".repeat((1 << 20) + 1);
    assert_eq!(gateway.client.call("POST", "/v1/chat/completions", &[], large).await.status, 413);
    node.reply(Reply::Never);
    let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "x"}]});
    assert_eq!(gateway.client.post("/v1/chat/completions", &body).await.status, 503);
    node.lock().models.push(info("later", 10));
    gateway.until("the poller asks more often", |s| s["nodes"][0]["models"][1]["id"] == "later").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_short_opens_no_door() {
    let node = TestNode::with_model().await;
    let keys = format!("[[keys]]\nname = \"alice\"\nsha256 = \"{}\"\n", "0".repeat(64));
    let gateway = TestGateway::start_with(&[&node], &[], "", "", &keys).await;
    let file = gateway.dir.path().join("cortex.toml");
    let refused = |s: &serde_json::Value, part: &str| {
        s["config"]["last_reload"]["error"].as_str().is_some_and(|error| error.contains(part))
    };
    for (text, part) in [
        (String::new(), "neither [gateway] nor [[neurons]]"),
        ("# comment\n".to_owned(), "neither [gateway] nor [[neurons]]"),
        (config(&[&node], "", ""), "remove all [[keys]]"),
    ] {
        std::fs::write(&file, text).unwrap();
        let status = gateway.until("it is refused", |s| refused(s, part)).await;
        assert_eq!(status["nodes"][0]["state"], "up");
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
        assert_eq!(gateway.client.post("/v1/chat/completions", &body).await.status, 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_node_has_one_poller_however_many_reloads_there_are() {
    let (fast, slow) = (TestNode::start().await, TestNode::start().await);
    let gateway = TestGateway::start(&[&fast], &[], "", "").await;
    slow.lock().health_takes = std::time::Duration::from_millis(1500);
    let file = gateway.dir.path().join("cortex.toml");
    for limit in 2..4 {
        let line = format!("body_limit_mb = {limit}");
        std::fs::write(&file, config(&[&fast, &slow], &line, "")).unwrap();
        let in_force = || gateway.gateway.config.load().body_limit == limit << 20;
        gateway.until("the new limit is in force", |_| in_force()).await;
    }
    gateway.until("the slow node is up", |s| s["nodes"][1]["state"] == "up").await;
    assert_eq!(slow.lock().asking.1, 1, "two pollers ask it at once");

    let series = async || gateway.metrics.get("/metrics").await.text().matches("node=\"n1\"").count();
    assert!(series().await >= 3);
    // Removed while a poll is under way, which must not bring its series back.
    std::fs::write(&file, config(&[&fast], "", "")).unwrap();
    gateway.until("the slow node is gone", |s| s["nodes"].as_array().unwrap().len() == 1).await;
    tokio::time::sleep(std::time::Duration::from_millis(1700)).await;
    assert_eq!(series().await, 0, "{}", gateway.metrics.get("/metrics").await.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_replaced_while_a_stream_runs() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &["affinity", "anthropic"], "", "").await;
    let (feed, fed) = mpsc::channel(4);
    node.reply(Reply::Fed(Arc::new(Mutex::new(fed))));
    feed.send(chunk("m", "before")).await.unwrap();
    let body = json!({"model": "m", "stream": true, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]});
    let mut stream = gateway.client.stream("/v1/messages", &body).await;
    assert!(stream.next().await.unwrap().contains("before"));

    std::fs::write(gateway.policies().join("affinity.wasm"), Guest::routing().component()).unwrap();
    std::fs::remove_file(gateway.policies().join("anthropic.wasm")).unwrap();
    let serving = |s: &serde_json::Value| {
        s["policies"].as_array().unwrap().len() == 1 && s["policies"][0]["serving"]["version"] == "g"
    };
    gateway.until("the new routing policy serves and the dialect is gone", serving).await;
    assert_eq!(gateway.client.post("/v1/messages", &body).await.status, 404);

    // The stream keeps the dialect that it began with.
    for piece in [vec![chunk("m", "after")], ending("m")].concat() {
        feed.send(piece).await.unwrap();
    }
    drop(feed);
    let rest = stream.rest().await;
    assert!(rest.contains("after") && rest.contains("event: message_stop"), "{rest}");

    std::fs::copy(built_policy("anthropic"), gateway.policies().join("anthropic.wasm")).unwrap();
    gateway.until("the dialect is back", |s| s["policies"].as_array().unwrap().len() == 2).await;
}
