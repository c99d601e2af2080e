//! Nanoseconds a call, and of the same judgement in native Rust.

use super::Figures;
use super::support::gateway::built_policy;
use cortex::policy::{Generation, Kind, PolicyEngine, Registry, Sources, measure};
use std::sync::Arc;

/// Runs of each measurement, of which the median counts: machines are shared.
const RUNS: usize = 5;

fn median(mut values: Vec<u64>) -> f64 {
    values.sort_unstable();
    values[values.len() / 2] as f64
}

/// The built policy as a gateway would have it, meters and all.
pub fn live(name: &str, kind: Kind) -> Arc<Generation> {
    let engine = Arc::new(PolicyEngine::new(None, 32 << 20).unwrap());
    let registry = Registry::new(engine, Arc::new(cortex::metrics::Metrics::new().unwrap()));
    let dirs = vec![built_policy(name).parent().unwrap().to_owned()];
    registry.configure(Sources { dirs, ..Sources::default() });
    registry.table().get(name, kind).unwrap()
}

pub fn measure(figures: &mut Figures) {
    let (affinity, anthropic) = (live("affinity", Kind::Routing), live("anthropic", Kind::Translation));
    let runs = |policy: &Arc<Generation>| -> Vec<Vec<measure::Row>> {
        (0..RUNS).map(|_| measure::all(policy).unwrap()).collect()
    };
    let (route, translate) = (runs(&affinity), runs(&anthropic));
    let of = |runs: &[Vec<measure::Row>], what: &str, value: fn(&measure::Row) -> u64| {
        median(
            runs.iter().map(|rows| value(rows.iter().find(|r| r.what.starts_with(what)).unwrap())).collect(),
        )
    };
    let mut put = |key: &str, value: f64| {
        figures.insert(key.to_owned(), value);
    };
    put("route_p50", of(&route, "route, 16 nodes", |r| r.p50_ns));
    put("route_p99", of(&route, "route, 16 nodes", |r| r.p99_ns));
    put("route_64_p50", of(&route, "route, 64 nodes", |r| r.p50_ns));
    put("fresh_instance_first_call", of(&route, "fresh instance", |r| r.p50_ns));
    put("native_route_p50", median((0..RUNS).map(|_| native_route(16)).collect()));
    put("native_route_64_p50", median((0..RUNS).map(|_| native_route(64)).collect()));
    put("translate_session", of(&translate, "session and first", |r| r.p50_ns));
    put("translate_event_p50", of(&translate, "event of", |r| r.p50_ns));
    put("translate_event_p99", of(&translate, "event of", |r| r.p99_ns));
    put("native_translate_event_p50", median((0..RUNS).map(|_| native_event()).collect()));
}

fn native_event() -> u64 {
    let mut session = policy_anthropic::session::Session::new(0, 7, Default::default());
    let event = || {
        std::hint::black_box(session.events(measure::EVENT.as_bytes()));
        Ok(())
    };
    measure::timed("native".into(), 20_000, event).unwrap().p50_ns
}

/// The judgement alone: no checkout, nothing that crosses.
fn native_route(nodes: u32) -> u64 {
    use policy_affinity::choose::{Asked, Row, choose};
    let names: Vec<u64> = (0..nodes).map(|n| policy_kit::hash::name(&format!("node-{n}"))).collect();
    let rows: Vec<Row> =
        (0..nodes).map(|n| [if n % 2 == 0 { 5 } else { 2 }, n % 5, n % 3, 4, u32::MAX, 1000 * n]).collect();
    let asked = Asked {
        model: "meta-llama/Llama-3.1-8B-Instruct",
        session: Some(0x5eed_5eed_5eed_5eed),
        seed: 7,
        prompt_tokens: 900,
    };
    let settings = policy_affinity::settings::Settings::parse("{}").unwrap();
    let (mut keys, mut picks) = (Vec::new(), Vec::new());
    let call = || {
        choose(&settings, &asked, &names, std::hint::black_box(&rows), &mut keys, &mut picks);
        std::hint::black_box(&picks);
        Ok(())
    };
    measure::timed("native".into(), 20_000, call).unwrap().p50_ns
}
