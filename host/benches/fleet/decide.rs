//! Decisions on a core: 100 nodes, 500 models, five of them on each node.

use super::world::{World, model, node};
use super::{Figures, median};
use cortex::policy;
use std::path::Path;
use std::time::{Duration, Instant};

const NODES: usize = 100;
const MODELS: usize = 500;
const CALLS: usize = 5_000;
const ROUNDS: usize = 9;

pub async fn measure(figures: &mut Figures) {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/policies");
    let nodes = (0..NODES).map(|n| (format!("n{n}"), node(&[24_000], 1_000_000))).collect();
    let models: Vec<_> = (0..MODELS).map(|n| model(&format!("org/model-{n}"), 4_000, "")).collect();
    let world = World::start(nodes, &models, "[gateway]\npoll_interval_secs = 5.0\n", Some(&policies)).await;
    for n in 0..MODELS {
        world.request(&format!("org/model-{n}"), "t", Default::default(), Duration::ZERO).await;
    }
    // Every node is polled once more, so that all is seen.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let names: Vec<String> = (0..MODELS).map(|n| format!("org/model-{n}")).collect();
    let mut seen = 0;
    let timed = |label: &str, figures: &mut Figures, call: &mut dyn FnMut(usize)| {
        let mut round = || {
            let started = Instant::now();
            (0..CALLS).for_each(&mut *call);
            started.elapsed().as_secs_f64() * 1e6 / CALLS as f64
        };
        figures.insert(label.into(), median((0..ROUNDS).map(|_| round()).collect()));
    };
    timed("facts_us", figures, &mut |n| seen += world.facts(&names[n % MODELS]).len());
    timed("decision_builtin_us", figures, &mut |n| {
        seen += policy::least_loaded(&world.facts(&names[n % MODELS])).len();
    });
    timed("decision_us", figures, &mut |n| {
        let model = &names[n % MODELS];
        seen += usize::from(world.decide(model, &world.facts(model)).is_some());
    });
    assert!(seen >= CALLS * ROUNDS);
    figures.insert("decisions_per_second".into(), 1e6 / figures["decision_us"]);
}
