//! `cargo xtask bench gateway`: what a request costs on its way through the gateway, beside other proxies in the
//! same run. The one that is measured has a core to itself; who asks and who answers share the other. Prints a
//! table and writes the file that CORTEX_BENCH_OUT names.

#![expect(unreachable_pub, reason = "a benchmark has no outside")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to say")]

mod idle;
mod load;
mod mock;
mod peers;
mod process;

use load::Load;
use peers::{PEERS, Peer};
use std::collections::BTreeMap;
use std::time::Duration;

pub type Figures = BTreeMap<String, f64>;

/// Key and what it may be at most; a figure without an aim stands beside one that has.
const AIMS: [(&str, f64); 5] = [
    ("plain_over_envoy", 0.8),
    ("stream100_over_envoy", 1.5),
    ("p99_added_over_envoy_ms", 0.2),
    ("idle_streams_rss_mb", 300.0),
    ("idle_translated_rss_mb", 900.0),
];

/// Rounds of every proxy in turn; medians of them count.
const ROUNDS: usize = 5;
/// Requests in a round.
const PLAIN: usize = 4_000;
const STREAMS: usize = 1_000;
/// Requests at once.
const AT_ONCE: usize = 16;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|a| a == "--mock") {
        return mock::serve();
    }
    // `cargo test` runs benches too, with this argument only in its absence.
    if !args.iter().any(|a| a == "--bench") {
        return;
    }
    process::pin_self(1);
    let only: Vec<&String> = args.iter().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| *o == name);
    let mut figures = Figures::new();
    let mock = mock::Mock::start();
    let running: Vec<peers::Running> = PEERS
        .iter()
        .filter(|peer| wanted(peer.name))
        .filter_map(|peer| Peer::start(peer, mock.address))
        .collect();
    measure_cpu(&running, &mut figures);
    measure_latency(&running, mock.address, &mut figures);
    drop(running);
    if wanted("metrics") {
        figures.insert("plain_metrics_us".into(), metrics_us());
    }
    if wanted("idle") {
        idle::measure(mock.address, &mut figures);
    }
    print(&figures);
    if let Some(out) = std::env::var_os("CORTEX_BENCH_OUT") {
        std::fs::write(out, serde_json::to_vec_pretty(&figures).unwrap()).unwrap();
    }
}

/// Microseconds of a core for each request.
fn measure_cpu(running: &[peers::Running], figures: &mut Figures) {
    for (kind, stream, requests) in [("plain", false, PLAIN), ("stream100", true, STREAMS)] {
        let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); running.len()];
        for round in 0..=ROUNDS {
            for (peer, costs) in running.iter().zip(&mut rounds) {
                let load = Load { address: peer.address, key: peer.peer.key, stream, path: load::CHAT };
                let before = peer.process.cpu();
                load.closed(AT_ONCE, requests);
                let cost = (peer.process.cpu() - before).as_secs_f64() * 1e6 / requests as f64;
                // The first round warms up.
                if round > 0 {
                    costs.push(cost);
                }
            }
        }
        for (peer, costs) in running.iter().zip(rounds) {
            figures.insert(format!("{}_{kind}_cpu_us", peer.peer.name), median(costs));
        }
        let of = |name: &str, figures: &Figures| figures.get(&format!("{name}_{kind}_cpu_us")).copied();
        if let Some(cortex) = of("cortex", figures) {
            figures.insert(format!("{kind}_cpu_us"), cortex);
            for (without, what) in [("cortex-no-policy", "policy"), ("cortex-no-keys", "keys")] {
                if let Some(bare) = of(without, figures) {
                    figures.insert(format!("{kind}_{what}_us"), cortex - bare);
                }
            }
            if let Some(logging) = of("cortex-log", figures) {
                figures.insert(format!("{kind}_log_us"), logging - cortex);
            }
            if let Some(envoy) = of("envoy", figures) {
                figures.insert(format!("{kind}_over_envoy"), cortex / envoy);
            }
        }
    }
}

/// What counting a request takes: it cannot be turned off, so it is measured by itself.
fn metrics_us() -> f64 {
    let metrics = cortex::metrics::Metrics::new().unwrap();
    let record = cortex::request::RequestRecord {
        dialect: "openai".into(),
        model: "org/model".into(),
        node: Some("node".into()),
        status: 200,
        attempts: 1,
        duration_s: 0.01,
        prompt_tokens: 12,
        cached_prompt_tokens: 8,
        predicted_prompt_tokens: Some(8),
        completion_tokens: 8,
        ..Default::default()
    };
    let rounds = (0..ROUNDS).map(|_| {
        let started = std::time::Instant::now();
        (0..100_000).for_each(|_| metrics.request(&record, "normal"));
        started.elapsed().as_secs_f64() * 1e6 / 100_000.0
    });
    median(rounds.collect())
}

/// What a proxy adds to the 99th of a hundred requests at 2,000 a second.
fn measure_latency(running: &[peers::Running], mock: std::net::SocketAddr, figures: &mut Figures) {
    let p99 = |address, key| {
        let load = Load { address, key, stream: false, path: load::CHAT };
        median((0..ROUNDS).map(|_| load.paced(2_000, Duration::from_secs(2))).collect())
    };
    let direct = p99(mock, None);
    let mut added = |name: &str| {
        let peer = running.iter().find(|peer| peer.peer.name == name)?;
        let added = p99(peer.address, peer.peer.key) - direct;
        figures.insert(format!("{name}_p99_added_ms"), added);
        Some(added)
    };
    if let (Some(envoy), Some(cortex)) = (added("envoy"), added("cortex")) {
        figures.insert("p99_added_ms".into(), cortex);
        figures.insert("p99_added_over_envoy_ms".into(), cortex - envoy);
    }
}

fn print(figures: &Figures) {
    println!("{:<36} {:>12} {:>10}", "figure", "measured", "aim");
    for (key, value) in figures {
        let verdict = match AIMS.iter().find(|(name, _)| name == key) {
            None => String::new(),
            Some((_, aim)) if value <= aim => format!("{aim:>10}"),
            Some((_, aim)) => format!("{aim:>10}  missed"),
        };
        println!("{key:<36} {value:>12.3} {verdict}");
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
