//! A file to live, and a thousand of them under load.

use super::Figures;
use super::support::gateway::built_policy;
use super::support::guest::Guest;
use super::support::load::Load;
use super::support::{TestGateway, TestNode};
use cortex::policy::Kind;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const SWAPS: u32 = 1000;

/// A component of 100 KB; its code is a small part of it, as in most policies.
fn component(mark: u32) -> Vec<u8> {
    Guest::routing().padded(mark, 100_000).component()
}

/// The built translation policy, all of it code, with a custom section that makes it another file.
fn marked(mark: u8) -> Vec<u8> {
    let mut bytes = std::fs::read(built_policy("anthropic")).unwrap();
    bytes.extend([0, 3, 1, b'm', mark]);
    bytes
}

pub async fn measure() -> Figures {
    let mut figures = Figures::new();
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &["anthropic"], "", "").await;
    let serving = |name: &str| {
        let table = gateway.gateway.policies.table();
        table
            .get(name, Kind::Routing)
            .or_else(|| table.get(name, Kind::Translation))
            .map(|g| g.sha256.clone())
    };
    // From the rename to the first look at the table that finds the new one.
    let live = async |name: &str, bytes: &[u8]| {
        let before = serving(name);
        let part = gateway.policies().join("part");
        std::fs::write(&part, bytes).unwrap();
        let started = Instant::now();
        std::fs::rename(part, gateway.policies().join(format!("{name}.wasm"))).unwrap();
        while serving(name) == before {
            let status = gateway.gateway.policies.table().status();
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "{name} is not live after 20 s: {status:#?}"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        started.elapsed().as_secs_f64() * 1e3
    };
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let small: Vec<Vec<u8>> = (0..7).map(component).collect();
    let large: Vec<Vec<u8>> = (0..7).map(marked).collect();
    for (name, files, suffix) in [("affinity", &small, ""), ("anthropic", &large, "_anthropic")] {
        let (mut cold, mut cached) = (Vec::new(), Vec::new());
        for bytes in files {
            cold.push(live(name, bytes).await);
        }
        // What is cached is written behind the scenes.
        tokio::time::sleep(Duration::from_secs(1)).await;
        for bytes in files {
            cached.push(live(name, bytes).await);
        }
        figures.insert(format!("swap{suffix}_cold_ms"), median(cold));
        figures.insert(format!("swap{suffix}_cached_ms"), median(cached));
    }

    let load = Load::start(&gateway, &node, Some("/v1/messages"));
    for n in 0..50 {
        live("affinity", &small[n % 7]).await;
    }
    let before = rss_mb();
    for n in 50..50 + SWAPS as usize {
        live("affinity", &small[n % 7]).await;
        // The node of the test remembers what it was asked; a real one does not.
        node.lock().asked.clear();
    }
    figures.insert("rss_growth_mb".into(), rss_mb() - before);
    let tally = load.stop().await;
    let mut put = |key: &str, value: u64| {
        figures.insert(key.to_owned(), value as f64);
    };
    put("swaps", u64::from(SWAPS));
    put("answered_requests", tally.answered.load(Ordering::Relaxed));
    put("failed_requests", tally.failed.load(Ordering::Relaxed));
    put("cut_streams", tally.cut.load(Ordering::Relaxed));
    figures
}

fn rss_mb() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / (1 << 20) as f64
}
