//! Who makes room for whom, and where.

use crate::support::node::{chat, info, info_on};
use crate::support::{Answer, Reply, TestGateway, TestNode};
use neuron_protocol::{ModelInfo, ModelStatus};
use serde_json::json;
use std::time::Duration;

fn model(id: &str, lines: &str) -> String {
    format!("[[models]]\nid = \"{id}\"\n{lines}\n")
}

async fn ask(gateway: &TestGateway, model: &str) -> Answer {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
    gateway.client.post("/v1/chat/completions", &body).await
}

fn served(node: &TestNode, answer: &Answer, unloads: &[&str]) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(node.lock().unloads, unloads);
}

/// A node with two devices of 1000 MiB.
async fn two_devices(models: &[ModelInfo]) -> TestNode {
    let node = TestNode::start().await;
    node.lock().devices = 2;
    node.lock().models.extend_from_slice(models);
    node.reply(Reply::Whole(200, chat("x", "hi")));
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn every_choice_of_devices_is_tried() {
    let models = model("o/new", "vram_mb = 500") + &model("o/kept", "pinned = true");
    // Device 1 is emptier, and nothing may leave it.
    let node = two_devices(&[info_on("old", 900, &[0]), info_on("o/kept", 600, &[1])]).await;
    node.lock().model_mb = 500;
    let gateway = TestGateway::start(&[&node], &["lru"], "", &models).await;
    served(&node, &ask(&gateway, "o/new").await, &["old"]);
    assert_eq!(node.lock().loads[0].devices.as_deref(), Some(&[0][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_leaves_a_device_that_was_lost() {
    let models = model("o/new", "vram_mb = 500") + &model("o/kept", "pinned = true");
    let node = two_devices(&[info_on("old", 900, &[0]), info_on("o/kept", 600, &[1])]).await;
    node.lock().model_mb = 500;
    node.lock().lost = Some(0);
    let gateway = TestGateway::start(&[&node], &["lru"], "", &models).await;
    let answer = ask(&gateway, "o/new").await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(node.lock().unloads.is_empty() && node.lock().loads.is_empty());
    // Once it is up again there is room to be made.
    node.lock().lost = None;
    gateway.until("it is up", |status| status["nodes"][0]["devices"][0]["state"].is_null()).await;
    served(&node, &ask(&gateway, "o/new").await, &["old"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_that_unloads_least_is_taken() {
    let models = model("o/new", "vram_mb = 500") + &model("o/kept", "pinned = true");
    // On the emptier device 700 MiB would have to go, on the other 400.
    let node = two_devices(&[
        info_on("large", 700, &[0]),
        info_on("small", 400, &[1]),
        info_on("o/kept", 400, &[1]),
    ])
    .await;
    node.lock().model_mb = 500;
    let gateway = TestGateway::start(&[&node], &["lru"], "", &models).await;
    served(&node, &ask(&gateway, "o/new").await, &["small"]);
    assert_eq!(node.lock().loads[0].devices.as_deref(), Some(&[1][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_on_two_devices_gets_room_on_both() {
    let models = model("o/new", "vram_mb = 1600\nmin_devices = 2");
    let node = two_devices(&[
        info_on("left", 500, &[0]),
        info_on("right", 500, &[1]),
        info_on("both", 200, &[0, 1]),
    ])
    .await;
    node.lock().model_mb = 1600;
    let gateway = TestGateway::start(&[&node], &["lru"], "", &models).await;
    served(&node, &ask(&gateway, "o/new").await, &["left", "right"]);
    let load = node.lock().loads[0].clone();
    assert_eq!((load.devices.map(|d| d.len()), load.tensor_parallel), (Some(2), Some(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_catalogue_does_not_know_the_node_says() {
    // No figure, and one that is too low.
    for lines in ["", "vram_mb = 50"] {
        let node = TestNode::start().await;
        node.lock().models.push(info("idle", 900));
        let gateway = TestGateway::start(&[&node], &["lru"], "", &model("o/new", lines)).await;
        node.reply(Reply::Whole(200, chat("o/new", "hi")));
        served(&node, &ask(&gateway, "o/new").await, &["idle"]);
        assert_eq!(node.lock().loads.len(), 2, "once refused, once loaded");
    }
    // Where nothing may go, the node's refusal stands and nothing else is tried.
    let node = TestNode::start().await;
    node.lock().models.push(info("o/kept", 900));
    let models = model("o/new", "") + &model("o/kept", "pinned = true");
    let gateway = TestGateway::start(&[&node], &["lru"], "", &models).await;
    let answer = ask(&gateway, "o/new").await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("insufficient_vram")));
    assert_eq!(node.lock().loads.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn residents_whose_node_does_not_say_their_size_have_the_catalogues() {
    let models = model("o/new", "vram_mb = 300") + &model("o/old", "vram_mb = 800");
    let node = TestNode::start().await;
    node.lock().models.push(info("o/old", 800));
    node.lock().silent = true;
    let gateway = TestGateway::start(&[&node], &["lru"], "", &models).await;
    node.reply(Reply::Whole(200, chat("o/new", "hi")));
    served(&node, &ask(&gateway, "o/new").await, &["o/old"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_displaces_a_higher_class_whatever_the_policy() {
    let models = model("o/new", "vram_mb = 300") + &model("o/high", "residency_priority = 500");
    for policies in [&[][..], &["lru"][..]] {
        let node = TestNode::start().await;
        node.lock().models.push(info("o/high", 900));
        let gateway = TestGateway::start(&[&node], policies, "", &models).await;
        let answer = ask(&gateway, "o/new").await;
        assert_eq!(
            (answer.status, answer.json()["error"]["code"].as_str()),
            (503, Some("insufficient_vram"))
        );
        assert!(node.lock().unloads.is_empty());
    }
}

/// The policy `priority` spares the higher class though it was idle for longer; `lru` does not.
#[tokio::test(flavor = "multi_thread")]
async fn the_strategy_decides_between_classes() {
    let models = model("o/new", "vram_mb = 400")
        + &model("o/low", "residency_priority = 10")
        + &model("o/mid", "residency_priority = 90");
    for (strategy, victim) in [("priority", "o/low"), ("lru", "o/mid")] {
        let node = TestNode::start().await;
        node.lock().models.extend([info("o/mid", 400), info("o/low", 400)]);
        let more = format!("[eviction]\nstrategy = \"{strategy}\"\n");
        let gateway = TestGateway::start_with(&[&node], &[strategy], "", &models, &more).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        node.reply(Reply::Whole(200, chat("o/low", "hi"))).reply(Reply::Whole(200, chat("o/new", "hi")));
        assert_eq!(ask(&gateway, "o/low").await.status, 200);
        served(&node, &ask(&gateway, "o/new").await, &[victim]);
        let metrics = gateway.metrics.get("/metrics").await.text();
        let asked = format!("cortex_policy_calls_total{{outcome=\"ok\",policy=\"{strategy}\"}} 1");
        assert!(metrics.contains(&asked), "{metrics}");
    }
}

/// Another gateway has loaded it, or is about to, since the last poll: nobody makes room for it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_came_meanwhile_needs_no_room() {
    for (status, loads) in [(ModelStatus::Loaded, 0), (ModelStatus::Loading, 1)] {
        let node = TestNode::start().await;
        node.lock().models.push(info("idle", 600));
        let models = model("o/new", "vram_mb = 600");
        let gateway = TestGateway::start(&[&node], &["lru"], "poll_interval_secs = 60.0", &models).await;
        node.lock().models.push(ModelInfo { status, ..info("o/new", 300) });
        node.reply(Reply::Whole(200, chat("o/new", "hi")));
        served(&node, &ask(&gateway, "o/new").await, &[]);
        assert_eq!(node.lock().loads.len(), loads);
    }
}
