//! What ten thousand streams take that say nothing.

use super::load::{Load, request};
use super::process::Process;
use super::{Figures, peers};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// As many as the machine's limit on open files allows, up to this: each is two for the gateway.
const MOST: usize = 10_000;

pub fn measure(mock: SocketAddr, figures: &mut Figures) {
    let streams = MOST.min((open_files() - 500) / 2);
    for (key, path) in
        [("idle_streams_rss_mb", "/v1/chat/completions"), ("idle_translated_rss_mb", "/v1/messages")]
    {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let command = peers::cortex(dir.path(), port, mock, peers::Cortex::default()).unwrap();
        let process = Process::start(0, &command, None);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let load = Load { address, key: Some(peers::KEY), stream: true, path };
        let (asked, started) = (request(load, "It stays idle."), Instant::now());
        let mut open = Vec::new();
        while open.len() < streams {
            match begin(address, &asked) {
                Some(stream) => open.push(stream),
                None if started.elapsed() < Duration::from_secs(120) => {
                    std::thread::sleep(Duration::from_millis(20))
                }
                None => break,
            }
        }
        figures.insert(key.into(), process.rss_mb());
        figures.insert(key.replace("rss_mb", "open"), open.len() as f64);
    }
}

/// A stream whose first event is there.
fn begin(address: SocketAddr, asked: &[u8]) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(asked).ok()?;
    let (mut answer, mut all) = ([0; 4096], Vec::new());
    loop {
        let read = stream.read(&mut answer).ok().filter(|n| *n > 0)?;
        all.extend_from_slice(&answer[..read]);
        if !all.starts_with(b"HTTP/1.1 200") {
            return None;
        }
        if memchr::memmem::find(&all, b"data: ").is_some() {
            return Some(stream);
        }
    }
}

fn open_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(1024)
}
