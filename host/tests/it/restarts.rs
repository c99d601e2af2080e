//! Daemons that are restarted, or do not outlive what they are given: whoever waits goes on waiting.

use crate::support::processes::{MODEL, root, start_neuron, start_neuron_with};
use crate::support::{Reply, TestGateway, TestNode, node::chat, until};
use serde_json::{Value, json};
use std::time::Duration;

const MODELS: &str = "[[models]]\nid = \"o/a\"\nvram_mb = 300\n";

fn ask(model: &str) -> Value {
    json!({"model": model, "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]})
}

/// A node that never ends a load, until it is killed.
async fn slow(at: &str) -> TestNode {
    let node = TestNode::start_at(at).await;
    node.lock().load_takes = Duration::from_secs(3600);
    node.lock().always = Some(Reply::Whole(200, chat("o/a", "hi")));
    node
}

async fn is_loading(gateway: &TestGateway) {
    gateway.until("it is being loaded", |s| s["loads"][0]["doing"] == "loading").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_its_daemon_does_not_end_is_made_by_the_next() {
    let node = slow("127.0.0.1:0").await;
    let gateway = TestGateway::start(&[&node], &["affinity"], "", MODELS).await;
    let body = ask("o/a");
    let calls = (0..5).map(|_| gateway.client.post("/v1/chat/completions", &body));
    let restarted = async {
        is_loading(&gateway).await;
        node.kill();
        gateway
            .until("all wait for it", |s| {
                let load = &s["loads"][0];
                load["doing"] == "waiting for a node to return" && load["waiters"] == 5
            })
            .await;
        let next = TestNode::start_at(&node.address.to_string()).await;
        next.lock().always = Some(Reply::Whole(200, chat("o/a", "hi")));
        next
    };
    let (answers, next) = tokio::join!(futures_util::future::join_all(calls), restarted);
    for answer in answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!((node.lock().loads.len(), next.lock().loads.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_ends_its_daemon_twice_is_not_given_to_it_any_more() {
    let mut node = slow("127.0.0.1:0").await;
    let at = node.address.to_string();
    let gateway = TestGateway::start(&[&node], &["affinity"], "", MODELS).await;
    let (client, body) = (gateway.client.clone(), ask("o/a"));
    let asked = async { client.post("/v1/chat/completions", &body).await };
    let killed = async {
        is_loading(&gateway).await;
        node.kill();
        gateway.until("it is gone", |s| s["nodes"][0]["state"] == "down").await;
        node = slow(&at).await;
        is_loading(&gateway).await;
        node.kill();
    };
    let (answer, ()) = tokio::join!(asked, killed);
    let said = answer.json();
    assert_eq!((answer.status, said["error"]["code"].as_str()), (503, Some("node_unavailable")), "{said}");
    assert_eq!(node.lock().loads.len(), 1);
}

/// Whoever is away for good is not waited for, and the other's word is what counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stays_away_is_given_up() {
    let (node, other) = (slow("127.0.0.1:0").await, TestNode::start().await);
    let error = json!({"error": {"kind": "quant_not_found", "message": "no quant Q4; it has Q8_0"}});
    other.lock().load_error = Some((422, error));
    // The first has more room.
    other.lock().models.push(crate::support::node::info("o/else", 400));
    let gateway = TestGateway::start(&[&node, &other], &[], "node_return_secs = 2.0", MODELS).await;
    let body = ask("o/a");
    let killed = async {
        is_loading(&gateway).await;
        node.kill();
    };
    let (answer, ()) = tokio::join!(gateway.client.post("/v1/chat/completions", &body), killed);
    let said = answer.json();
    assert_eq!((answer.status, said["error"]["code"].as_str()), (422, Some("quant_not_found")), "{said}");
    assert_eq!((node.lock().loads.len(), other.lock().loads.len()), (1, 1), "neither is asked again");
}

/// One load at a time: that of another node is made, and nobody waits for the one that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn another_node_takes_over_at_once() {
    let (node, other) = (slow("127.0.0.1:0").await, TestNode::start().await);
    other.lock().always = Some(Reply::Whole(200, chat("o/a", "hi")));
    other.lock().called = "other".into();
    // The first has more room.
    other.lock().models.push(crate::support::node::info("o/else", 400));
    let gateway = TestGateway::start(&[&node, &other], &[], "", MODELS).await;
    let body = ask("o/a");
    let killed = async {
        is_loading(&gateway).await;
        node.kill();
    };
    let (answer, ()) = tokio::join!(gateway.client.post("/v1/chat/completions", &body), killed);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!((node.lock().loads.len(), other.lock().loads.len()), (1, 1));
}

/// A daemon that is told to end while it loads ends the load first, and the next one has to make it again.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_during_a_load_refuses_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let start = async |listen: String| {
        let dir = dir.path().to_owned();
        tokio::task::spawn_blocking(move || start_neuron(&dir, &listen)).await.unwrap()
    };
    let (mut neuron, address) = start("127.0.0.1:0".into()).await;
    let neurons = format!("[[neurons]]\nname = \"only\"\nendpoint = \"http://{address}\"\n");
    let models = format!("[[models]]\nid = \"{MODEL}\"\n");
    let gateway = TestGateway::start_with(&[], &[], "", &models, &neurons).await;
    let body = ask(MODEL);
    let calls = (0..3).map(|_| gateway.client.post("/v1/chat/completions", &body));
    let restarted = async {
        is_loading(&gateway).await;
        assert!(tokio::task::spawn_blocking(move || neuron.terminate()).await.unwrap());
        start(address.clone()).await
    };
    let (answers, _neuron) = tokio::join!(futures_util::future::join_all(calls), restarted);
    for answer in answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

/// What only the daemon's own configuration has: it is there again once that has been loaded.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_daemon_preloads_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let hub = root().join("target/models");
    let config = |listen: &str| {
        format!(
            "[neuron]\nlisten = \"{listen}\"\npreload = [\"{MODEL}\"]\n[sources.huggingface]\ncache_dir = {hub:?}\n"
        )
    };
    let start = async |listen: String| {
        let (dir, config) = (dir.path().to_owned(), config(&listen));
        tokio::task::spawn_blocking(move || start_neuron_with(&dir, &config, &[])).await.unwrap()
    };
    let (mut neuron, address) = start("127.0.0.1:0".into()).await;
    let neurons = format!("[[neurons]]\nname = \"only\"\nendpoint = \"http://{address}\"\n");
    let gateway = TestGateway::start_with(&[], &[], "", "", &neurons).await;
    gateway.until("it is up", |s| s["nodes"][0]["state"] == "up").await;
    let unknown = gateway.client.post("/v1/chat/completions", &ask("o/nobody-has-it")).await;
    assert_eq!(unknown.status, 404, "{}", unknown.text());
    let enough = tokio_util::sync::CancellationToken::new();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (client, enough) = (gateway.client.clone(), enough.clone());
        clients.spawn(async move {
            while !enough.is_cancelled() {
                let answer = client.post("/v1/chat/completions", &ask(MODEL)).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        });
    }
    let answered = async || {
        let requests = gateway.admin.get("/admin/requests").await.json();
        requests.as_array().unwrap().iter().filter(|r| r["status"] == 200).count()
    };
    for _ in 0..2 {
        let before = answered().await;
        until("requests are answered", async || answered().await > before + 3).await;
        assert!(tokio::task::spawn_blocking(move || neuron.terminate()).await.unwrap());
        // At once, and so between two polls: nobody has seen that it was away.
        neuron = start(address.clone()).await.0;
    }
    let before = answered().await;
    until("requests are answered again", async || answered().await > before + 3).await;
    enough.cancel();
    clients.join_all().await;
}
