//! What the gateway adds to a load, and what a reload of 500 models takes.

use super::support::node::chat;
use super::support::{Reply, TestGateway, TestNode, until};
use super::{Figures, median};
use serde_json::json;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// What the node itself needs.
const LOAD: Duration = Duration::from_millis(400);
const ROUNDS: usize = 9;
const MODELS: usize = 500;

pub async fn measure(figures: &mut Figures) {
    let node = TestNode::start().await;
    node.lock().load_takes = LOAD;
    node.lock().always = Some(Reply::Whole(200, chat("o/m0", "hi")));
    let gateway =
        TestGateway::start(&[&node], &["affinity", "lru"], "poll_interval_secs = 1.0", &catalogue(0)).await;
    let body = json!({"model": "o/m0", "messages": [{"role": "user", "content": "hi"}]});
    let ask = async || {
        let started = Instant::now();
        let answer = gateway.client.post("/v1/chat/completions", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        started.elapsed().as_secs_f64() * 1e3
    };
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        node.lock().models.clear();
        until("the gateway has seen that it is gone", async || {
            gateway.gateway.fleet.now().nodes[0].models.is_empty()
        })
        .await;
        cold.push(ask().await);
        warm.push(ask().await);
    }
    let (cold, warm) = (median(cold), median(warm));
    figures.insert("cold_load_overhead_ms".into(), cold - warm - LOAD.as_secs_f64() * 1e3);
    figures.insert("warm_request_ms".into(), warm);

    let reloads = (1..=ROUNDS).map(|round| {
        std::fs::write(gateway.dir.path().join("models.toml"), catalogue(round)).unwrap();
        let started = Instant::now();
        tokio::task::block_in_place(|| gateway.gateway.reload());
        let took = started.elapsed().as_secs_f64() * 1e3;
        let in_force = gateway.gateway.config.load().catalogue.get("o/m7").unwrap().vram_mb;
        assert_eq!(in_force, Some(300 + round as u64));
        took
    });
    figures.insert("reload_ms".into(), median(reloads.collect()));
}

fn catalogue(round: usize) -> String {
    (0..MODELS).fold(String::new(), |mut text, n| {
        writeln!(text, "[[models]]\nid = \"o/m{n}\"\nvram_mb = {}", 300 + round).unwrap();
        text
    })
}
