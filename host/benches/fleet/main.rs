//! `cargo xtask bench fleet`: what the control plane costs and what it spares, on real sockets where time is
//! measured and in simulated time where it is counted. Prints a table and writes the file that CORTEX_BENCH_OUT
//! names.

#![expect(unreachable_pub, reason = "a benchmark has no outside")]
#![expect(dead_code, reason = "the tests use more of what is shared with them")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to say")]

/// What the tests use: nodes and clients on real sockets.
#[path = "../../tests/it/support"]
mod support {
    pub mod gateway;
    pub mod http;
    pub mod node;
    pub mod wait;

    pub use gateway::TestGateway;
    pub use node::{Reply, TestNode};
    pub use wait::until;
}

#[path = "../../tests/simulation/hosts.rs"]
mod hosts;
#[path = "../../tests/simulation/world.rs"]
mod world;

mod cold;
mod decide;
mod tenants;

use std::collections::BTreeMap;

/// Key, aim, whether more is better; a figure without an aim stands beside one that has.
const AIMS: [(&str, f64, bool); 3] = [
    ("cold_load_overhead_ms", 50.0, false),
    ("reload_ms", 100.0, false),
    ("decisions_per_second", 100_000.0, true),
];

pub type Figures = BTreeMap<String, f64>;

fn main() {
    // `cargo test` runs benches too, with this argument only in its absence.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let mut figures = Figures::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(cold::measure(&mut figures));
    let paused =
        || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    paused().block_on(decide::measure(&mut figures));
    paused().block_on(tenants::measure(&mut figures));
    println!("{:<36} {:>12} {:>10}", "figure", "measured", "aim");
    for (key, value) in &figures {
        let verdict = match AIMS.iter().find(|(name, ..)| name == key) {
            None => String::new(),
            Some((_, aim, more)) if (*value >= *aim) == *more || value == aim => format!("{aim:>10}"),
            Some((_, aim, _)) => format!("{aim:>10}  missed"),
        };
        println!("{key:<36} {value:>12.3} {verdict}");
    }
    if let Some(out) = std::env::var_os("CORTEX_BENCH_OUT") {
        std::fs::write(out, serde_json::to_vec_pretty(&figures).unwrap()).unwrap();
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
