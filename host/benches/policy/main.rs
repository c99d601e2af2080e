//! `cargo xtask bench policy`: what policies cost, with real components behind real sockets.
//! Prints a table and writes the file that CORTEX_BENCH_OUT names.

#![expect(unreachable_pub, reason = "a benchmark has no outside")]
#![expect(dead_code, reason = "the tests use more of what is shared with them")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to say")]

/// What the tests use: nodes and clients on real sockets.
#[path = "../../tests/it/support"]
mod support {
    pub mod gateway;
    pub mod guest;
    pub mod http;
    pub mod load;
    pub mod node;
    pub mod wait;

    pub use gateway::TestGateway;
    pub use node::TestNode;
    pub use wait::until;
}

mod calls;
mod stalls;
mod swaps;

use std::collections::BTreeMap;

/// Key, aim; a figure without an aim stands beside one that has.
const AIMS: [(&str, f64); 10] = [
    ("route_p50", 500.0),
    ("route_p99", 2000.0),
    ("fresh_instance_first_call", 15_000.0),
    ("translate_event_p50", 3000.0),
    ("swap_cold_ms", 300.0),
    ("swap_cached_ms", 120.0),
    ("failed_requests", 0.0),
    ("cut_streams", 0.0),
    ("rss_growth_mb", 10.0),
    ("stall_over_limit_ms", 1.0),
];

pub type Figures = BTreeMap<String, f64>;

fn main() {
    // `cargo test` runs benches too, with this argument only in its absence.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let mut figures = Figures::new();
    calls::measure(&mut figures);
    stalls::measure(&mut figures);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    figures.extend(runtime.block_on(swaps::measure()));
    println!("{:<32} {:>12} {:>10}", "figure", "measured", "aim");
    for (key, value) in &figures {
        let aim = AIMS.iter().find(|(name, _)| name == key).map(|(_, aim)| *aim);
        let verdict = match aim {
            None => String::new(),
            Some(aim) if *value <= aim => format!("{aim:>10}"),
            Some(aim) => format!("{aim:>10}  missed"),
        };
        println!("{key:<32} {value:>12.1} {verdict}");
    }
    if let Some(path) = std::env::var_os("CORTEX_BENCH_OUT") {
        std::fs::write(path, serde_json::to_string_pretty(&figures).unwrap()).unwrap();
    }
}
