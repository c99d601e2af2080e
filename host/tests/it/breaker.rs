//! Nodes whose answers fail though they say that they are well.

use crate::support::gateway::TestGateway;
use crate::support::node::{Reply, TestNode, chat};
use crate::support::until;
use serde_json::{Value, json};

fn ask() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "x"}]})
}

fn failing() -> Reply {
    Reply::Whole(500, json!({"error": {"message": "the model is broken"}}))
}

fn well() -> Reply {
    Reply::Whole(200, chat("m", "hi"))
}

/// A series of `/metrics`.
async fn series(gateway: &TestGateway, name: &str) -> Option<f64> {
    let text = gateway.metrics.get("/metrics").await.text();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

async fn two() -> (TestNode, TestNode, TestGateway) {
    let (sick, healthy) = (TestNode::with_model().await, TestNode::with_model().await);
    sick.lock().always = Some(failing());
    healthy.lock().always = Some(well());
    let gateway = TestGateway::start(&[&sick, &healthy], &[], "", "").await;
    (sick, healthy, gateway)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_keeps_failing_is_left_alone_and_tried_by_one_request_at_a_time() {
    let (sick, healthy, gateway) = two().await;
    for _ in 0..40 {
        let said = gateway.client.post("/v1/chat/completions", &ask()).await;
        assert_eq!(said.status, 200, "{}", said.text());
    }
    // Five, and a trial or two since.
    let asked = sick.lock().asked.len();
    assert!((5..=7).contains(&asked), "{asked}");
    assert_eq!(healthy.lock().asked.len(), 40);
    assert_eq!(series(&gateway, "cortex_node_breaker_open{node=\"n0\"}").await, Some(1.0));
    assert!(series(&gateway, "cortex_retries_total{outcome=\"tried\"}").await >= Some(5.0));
    sick.lock().always = Some(well());
    until("it is back", async || {
        gateway.client.post("/v1/chat/completions", &ask()).await;
        series(&gateway, "cortex_node_breaker_open{node=\"n0\"}").await == Some(0.0)
    })
    .await;
    let before = sick.lock().asked.len();
    until("it has its share", async || {
        gateway.client.post("/v1/chat/completions", &ask()).await;
        sick.lock().asked.len() > before + 3
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_bridge_a_short_pause_and_are_told_of_a_long_one() {
    let node = TestNode::with_model().await;
    node.lock().always = Some(failing());
    let gateway = TestGateway::start(&[&node], &[], "", "").await;
    let began = std::time::Instant::now();
    for _ in 0..5 {
        assert_eq!(gateway.client.post("/v1/chat/completions", &ask()).await.status, 500);
    }
    assert!(began.elapsed().as_millis() < 900, "whoever it failed does not wait for it");
    assert_eq!(
        series(&gateway, "cortex_retries_total{outcome=\"tried\"}").await,
        Some(0.0),
        "there is no other"
    );
    assert_eq!(series(&gateway, "cortex_node_breaker_open{node=\"n0\"}").await, Some(1.0));
    node.lock().always = Some(well());
    let body = ask();
    let waiting = (0..4).map(|_| gateway.client.post("/v1/chat/completions", &body));
    let waiting = futures_util::future::join_all(waiting).await;
    assert!(waiting.iter().all(|said| said.status == 200), "they wait for the trial, and are it");
    assert!(began.elapsed().as_millis() >= 900);
    // One, two and four seconds, then eight: too long to wait in silence.
    node.lock().always = Some(failing());
    until("it is told", async || {
        let said = gateway.client.post("/v1/chat/completions", &ask()).await;
        said.status == 503
            && said.text().contains("kept failing and is tried again in")
            && !said.header("retry-after").is_empty()
    })
    .await;
    let status = gateway.status().await;
    assert!(status["nodes"][0]["left_alone_secs"].as_f64().unwrap() > 0.0, "{status:#}");
}

/// What comes back in a second is not worth a load.
#[tokio::test(flavor = "multi_thread")]
async fn a_short_pause_loads_nothing_elsewhere() {
    let (has, empty) = (TestNode::with_model().await, TestNode::start().await);
    has.lock().always = Some(failing());
    let gateway =
        TestGateway::start(&[&has, &empty], &[], "", "[[models]]\nid = \"m\"\nvram_mb = 100\n").await;
    for _ in 0..5 {
        gateway.client.post("/v1/chat/completions", &ask()).await;
    }
    has.lock().always = Some(well());
    assert_eq!(gateway.client.post("/v1/chat/completions", &ask()).await.status, 200);
    assert!(empty.lock().loads.is_empty(), "{:?}", empty.lock().loads);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_breaks_nodes_is_not_given_to_all_of_them() {
    let mut nodes = Vec::new();
    for _ in 0..6 {
        let node = TestNode::with_model().await;
        node.lock().always = Some(Reply::Broken(vec![]));
        nodes.push(node);
    }
    let gateway = TestGateway::start(&nodes.iter().collect::<Vec<_>>(), &[], "", "").await;
    let said = gateway.client.post("/v1/chat/completions", &ask()).await;
    assert!(said.status == 502 && said.text().contains("4 nodes broke off"), "{}", said.text());
    assert_eq!(nodes.iter().map(|node| node.lock().asked.len()).sum::<usize>(), 4);
    assert_eq!(series(&gateway, "cortex_retries_total{outcome=\"poison\"}").await, Some(1.0));
}

/// That they are not there is nobody's fault: all of them are passed over.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_gone_do_not_count_as_broken_by_it() {
    let mut nodes = Vec::new();
    for _ in 0..7 {
        nodes.push(TestNode::with_model().await);
    }
    nodes[6].lock().always = Some(well());
    let lines = "poll_interval_secs = 30.0";
    let gateway = TestGateway::start(&nodes.iter().collect::<Vec<_>>(), &[], lines, "").await;
    nodes[..6].iter().for_each(TestNode::kill);
    for _ in 0..4 {
        let said = gateway.client.post("/v1/chat/completions", &ask()).await;
        assert_eq!(said.status, 200, "{}", said.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_is_overloaded_is_not_asked_twice_for_everything() {
    let (one, other, gateway) = two().await;
    for node in [&one, &other] {
        node.lock().always = Some(Reply::Whole(503, json!({"error": {"message": "too much to do"}})));
    }
    let spent = async || {
        let asks = (0..50).map(|_| async {
            let said = gateway.client.post("/v1/chat/completions", &ask()).await;
            assert_eq!(said.status, 503, "{}", said.text());
        });
        futures_util::future::join_all(asks).await;
        series(&gateway, "cortex_retries_total{outcome=\"budget\"}").await >= Some(10.0)
    };
    until("the budget is spent", spent).await;
    assert_eq!(
        series(&gateway, "cortex_node_breaker_open{node=\"n0\"}").await,
        Some(0.0),
        "busy is not broken"
    );
}
