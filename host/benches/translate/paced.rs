//! A thousand streams at once, each of fifty events a second: how late an event is at its client. Who asks and who
//! answers share a core, and are late themselves: what is without the gateway stands beside it.

use super::load::{CHAT, Load, request};
use super::mock::{STAMP, now_ns};
use super::{DIALECTS, Figures, Gateway, median};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const STREAMS: u64 = 1_000;
/// Over which they begin.
const BEGIN: Duration = Duration::from_secs(2);
const RUNS: usize = 3;

/// Milliseconds, over all events of all streams.
struct Seen {
    delay_p99: f64,
    first_byte_p99: f64,
    events: usize,
}

pub fn measure(gateway: &Gateway, mock: SocketAddr, figures: &mut Figures) {
    let key = Some(super::peers::KEY);
    let ways = [("direct", mock, None, CHAT), ("native", gateway.address, key, CHAT)].into_iter();
    let ways = ways.chain(DIALECTS.map(|(name, path)| (name, gateway.address, key, path)));
    for (name, address, key, path) in ways {
        let (mut delays, mut firsts, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let before = gateway.process.cpu();
            let seen = run(Load { address, key, stream: true, path });
            delays.push(seen.delay_p99);
            firsts.push(seen.first_byte_p99);
            cpu.push(gateway.process.cpu().saturating_sub(before).as_secs_f64() * 1e6 / seen.events as f64);
        }
        figures.insert(format!("stream_delay_p99_ms_{name}"), median(delays));
        figures.insert(format!("first_byte_ms_p99_{name}"), median(firsts));
        if name != "direct" {
            figures.insert(format!("stream_event_cpu_us_{name}"), median(cpu));
        }
    }
    // The worst of the translated ones.
    for key in ["stream_delay_p99_ms", "first_byte_ms_p99"] {
        let of = |name: &str| figures[&format!("{key}_{name}")];
        let worst = DIALECTS.iter().map(|(name, _)| of(name)).fold(0.0, f64::max);
        figures.insert(key.into(), worst);
    }
}

fn run(load: Load) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut delays, mut firsts) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        let started = Instant::now();
        let mut all = JoinSet::new();
        for stream in 0..STREAMS {
            all.spawn(async move {
                tokio::time::sleep_until((started + BEGIN * stream as u32 / STREAMS as u32).into()).await;
                one(load).await
            });
        }
        while let Some(done) = all.join_next().await {
            let (first, some) = done.unwrap();
            firsts.push(first);
            delays.extend(some);
        }
    });
    Seen { delay_p99: p99(&mut delays), first_byte_p99: p99(&mut firsts), events: delays.len() }
}

fn p99(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() * 99 / 100]
}

/// When its first byte came, and how late each event was.
async fn one(load: Load) -> (f64, Vec<f64>) {
    let mut stream = TcpStream::connect(load.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let asked = Instant::now();
    stream.write_all(&request(load, "It comes slowly.")).await.unwrap();
    let (mut delays, mut first, mut buffer) = (Vec::new(), None, Vec::with_capacity(4096));
    loop {
        let read = stream.read_buf(&mut buffer).await.unwrap();
        assert!(read > 0, "closed: {}", String::from_utf8_lossy(&buffer));
        first.get_or_insert_with(|| asked.elapsed().as_secs_f64() * 1e3);
        let now = now_ns();
        let mut scanned = 0;
        // Responses say their text again at the end: what is old is no event.
        for at in memchr::memmem::find_iter(&buffer, STAMP.as_bytes()) {
            let from = at + STAMP.len();
            let Some(stamp) = buffer.get(from..from + 20) else { break };
            scanned = from + 20;
            let sent: u64 = std::str::from_utf8(stamp).unwrap().parse().unwrap();
            let late = now.saturating_sub(sent) as f64 / 1e6;
            if delays.len() < 6 * super::mock::PACE as usize {
                delays.push(late);
            }
        }
        if buffer.ends_with(b"0\r\n\r\n") {
            return (first.unwrap_or_default(), delays);
        }
        let keep = scanned.max(buffer.len().saturating_sub(64));
        buffer.drain(..keep);
    }
}
