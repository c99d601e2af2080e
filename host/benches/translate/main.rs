//! `cargo xtask bench translate`: what dialects cost, in the policy and through the gateway. Prints a table and
//! writes the file that CORTEX_BENCH_OUT names.

#![expect(unreachable_pub, reason = "a benchmark has no outside")]
#![expect(dead_code, reason = "the gateway's benchmark uses more of what is shared with it")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to say")]

mod calls;
#[path = "../gateway/load.rs"]
mod load;
#[path = "../gateway/mock.rs"]
mod mock;
mod paced;
#[path = "../gateway/peers.rs"]
mod peers;
#[path = "../gateway/process.rs"]
mod process;

use load::Load;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub type Figures = BTreeMap<String, f64>;

/// Key and what it may be at most; a figure without an aim stands beside one that has.
const AIMS: [(&str, f64); 7] = [
    ("event_ns_anthropic", 3_000.0),
    ("event_ns_responses", 3_000.0),
    ("plain_us_anthropic", 60.0),
    ("plain_us_responses", 60.0),
    ("request_1mb_ms_anthropic", 5.0),
    ("request_1mb_ms_responses", 5.0),
    ("stream_delay_p99_ms", 10.0),
];

/// Each dialect with its path.
pub const DIALECTS: [(&str, &str); 2] = [("anthropic", "/v1/messages"), ("responses", "/v1/responses")];

/// Rounds of each measurement; medians of them count.
pub const ROUNDS: usize = 5;
const PLAIN: usize = 4_000;
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
    let mut figures = Figures::new();
    process::pin_self(1);
    calls::measure(&mut figures);
    let mock = mock::Mock::start();
    let gateway = Gateway::start(mock.address);
    plain(&gateway, &mut figures);
    paced::measure(&gateway, mock.address, &mut figures);
    print(&figures);
    if let Some(out) = std::env::var_os("CORTEX_BENCH_OUT") {
        std::fs::write(out, serde_json::to_vec_pretty(&figures).unwrap()).unwrap();
    }
}

/// The release build on a core of its own.
pub struct Gateway {
    pub process: process::Process,
    pub address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Gateway {
    fn start(mock: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let command = peers::cortex(dir.path(), port, mock, peers::Cortex::default()).unwrap();
        let process = process::Process::start(0, &command, None);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let (load, started) = (load(address, load::CHAT), Instant::now());
        while !peers::is_serving(load) {
            assert!(started.elapsed() < Duration::from_secs(60), "the gateway does not serve");
            std::thread::sleep(Duration::from_millis(200));
        }
        // Threads that compiled policies end after ten seconds, and what they used is no longer counted.
        std::thread::sleep(Duration::from_secs(12));
        Self { process, address, _dir: dir }
    }
}

fn load(address: SocketAddr, path: &'static str) -> Load {
    Load { address, key: Some(peers::KEY), stream: false, path }
}

/// Microseconds of a core for a whole answer, native and translated.
fn plain(gateway: &Gateway, figures: &mut Figures) {
    for (name, path) in [("native", load::CHAT)].into_iter().chain(DIALECTS) {
        let mut rounds = Vec::new();
        for round in 0..=ROUNDS {
            let before = gateway.process.cpu();
            load(gateway.address, path).closed(AT_ONCE, PLAIN);
            let cost = gateway.process.cpu().saturating_sub(before).as_secs_f64() * 1e6 / PLAIN as f64;
            // The first round warms up.
            if round > 0 {
                rounds.push(cost);
            }
        }
        figures.insert(format!("plain_us_{name}"), median(rounds));
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
