//! Two tenants whose models do not fit together: swaps and waits, with the thrash guard and without.

use super::Figures;
use super::world::{Outcome, World, model, node, outcomes};
use cortex::fleet::Priority;
use futures_util::future::join_all;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Twenty minutes of them.
const SECONDS: u64 = 1200;

pub async fn measure(figures: &mut Figures) {
    let swap_at_once = "[eviction]\npatience_secs = 0.0\n";
    for (label, strategy, eviction, lines, class) in [
        ("swap_on_miss", "lru", swap_at_once, "min_residency = 0", 100),
        ("lru", "lru", "[eviction]\n", "", 100),
        ("priority", "priority", "[eviction]\n", "", 200),
    ] {
        let (loads, chat, batch) = play(&format!("{eviction}strategy = {strategy:?}\n"), lines, class).await;
        figures.insert(format!("tenants_{label}_loads"), loads as f64);
        figures.insert(format!("tenants_{label}_mean_wait_s"), mean(&[chat.clone(), batch.clone()].concat()));
        figures.insert(format!("tenants_{label}_chat_wait_s"), mean(&chat));
    }
}

/// One talks to a chat model, about every two seconds; the other has batches for two more models, of which one
/// fits beside the chat model.
/// `class`: of the chat model; the others are of class 100.
async fn play(eviction: &str, lines: &str, class: u32) -> (u64, Vec<f64>, Vec<f64>) {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/policies");
    let models = [
        model("o/chat", 8_000, &format!("{lines}\nresidency_priority = {class}")),
        model("o/small", 8_000, lines),
        model("o/large", 14_000, lines),
    ];
    let settings = format!("[gateway]\nmax_wait_secs = 600.0\n{eviction}");
    let nodes = vec![("n".to_owned(), node(&[24_000], 1_000))];
    let world = Arc::new(World::start(nodes, &models, &settings, Some(&policies)).await);
    let start = Instant::now();
    let requests = workload().into_iter().map(|(at, model, tenant, service)| {
        let world = world.clone();
        async move {
            tokio::time::sleep_until(start + at).await;
            world.request(model, tenant, Priority::Normal, service).await
        }
    });
    let went = join_all(requests).await;
    assert!(went.iter().all(|w| w.outcome == Outcome::Served), "{:?}", outcomes(&went));
    let waits =
        |tenant: &str| went.iter().filter(|w| w.tenant == tenant).map(|w| w.waited.as_secs_f64()).collect();
    (world.hosts.tally().loads, waits("chat"), waits("batch"))
}

/// The same each time.
fn workload() -> Vec<(Duration, &'static str, &'static str, Duration)> {
    let mut state = 88_172_645_463_325_252u64;
    let mut draw = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    };
    let mut requests = Vec::new();
    let mut at = 0;
    while at < SECONDS * 1000 {
        requests.push((Duration::from_millis(at), "o/chat", "chat", Duration::from_millis(500 + draw(3000))));
        at += draw(4000);
    }
    let mut at = 5000;
    while at < SECONDS * 1000 {
        let model = if draw(2) == 0 { "o/small" } else { "o/large" };
        for _ in 0..1 + draw(6) {
            requests.push((
                Duration::from_millis(at),
                model,
                "batch",
                Duration::from_millis(1000 + draw(4000)),
            ));
        }
        at += draw(16_000);
    }
    requests
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
