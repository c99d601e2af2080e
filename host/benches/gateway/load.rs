//! Requests over connections that stay open, with as little work on this side as there can be.

use super::mock::MODEL;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Who is asked, and what for.
#[derive(Clone, Copy)]
pub struct Load {
    pub address: SocketAddr,
    pub key: Option<&'static str>,
    pub stream: bool,
    /// Whose dialect is spoken.
    pub path: &'static str,
}

pub const CHAT: &str = "/v1/chat/completions";

impl Load {
    /// So many requests, so many at once.
    pub fn closed(self, at_once: usize, requests: usize) {
        let left = Arc::new(AtomicUsize::new(requests));
        runtime().block_on(async {
            let mut all = JoinSet::new();
            for _ in 0..at_once {
                let left = left.clone();
                all.spawn(async move {
                    let mut connection = Connection::open(self).await;
                    while left
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                        .is_ok()
                    {
                        connection.ask().await;
                    }
                });
            }
            while let Some(done) = all.join_next().await {
                done.unwrap();
            }
        });
    }

    /// The 99th of a hundred latencies, in milliseconds, at so many requests a second.
    pub fn paced(self, per_second: u32, time: Duration) -> f64 {
        let started = Instant::now();
        let mut latencies: Vec<f64> = runtime().block_on(async {
            let mut all = JoinSet::new();
            let lanes = 64;
            for lane in 0..lanes {
                all.spawn(async move {
                    let mut connection = Connection::open(self).await;
                    let mut took = Vec::new();
                    let every = Duration::from_secs(1) / per_second;
                    let mut due = started + every * lane;
                    while due < started + time {
                        tokio::time::sleep_until(due.into()).await;
                        // The timer's own coarseness is not the proxy's.
                        let asked = Instant::now();
                        connection.ask().await;
                        took.push(asked.elapsed().as_secs_f64() * 1e3);
                        due += every * lanes;
                    }
                    took
                });
            }
            let mut took = Vec::new();
            while let Some(done) = all.join_next().await {
                took.extend(done.unwrap());
            }
            took
        });
        latencies.sort_by(f64::total_cmp);
        latencies[latencies.len() * 99 / 100]
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The request as it goes over the wire; `says` is what the user says.
pub fn request(load: Load, says: &str) -> Vec<u8> {
    let Load { stream, path, .. } = load;
    let (list, limit) =
        if path == "/v1/responses" { ("input", "max_output_tokens") } else { ("messages", "max_tokens") };
    let body = format!(
        r#"{{"model":"{MODEL}","stream":{stream},"{limit}":128,"{list}":[{{"role":"system","content":"You are a sailor of few words."}},{{"role":"user","content":"{says}"}}]}}"#
    );
    let key = load.key.map_or(String::new(), |key| format!("authorization: Bearer {key}\r\n"));
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{key}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
    is_stream: bool,
}

impl Connection {
    async fn open(load: Load) -> Self {
        let stream = TcpStream::connect(load.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let request = request(load, "Which way does the wind blow?");
        Self { stream, request, buffer: Vec::with_capacity(64 << 10), is_stream: load.stream }
    }

    /// One request and its whole answer.
    async fn ask(&mut self) {
        self.stream.write_all(&self.request).await.unwrap();
        self.buffer.clear();
        let mut ends = None;
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
            assert!(read > 0, "closed after {}", String::from_utf8_lossy(&self.buffer));
            if ends.is_none() {
                ends = self.end();
            }
            match ends {
                Some(End::At(end)) if self.buffer.len() >= end => return,
                Some(End::Mark) if self.buffer.ends_with(b"0\r\n\r\n") => return,
                _ => {}
            }
        }
    }

    fn end(&self) -> Option<End> {
        let head = memchr::memmem::find(&self.buffer, b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&self.buffer[..head]).to_ascii_lowercase();
        assert!(text.starts_with("http/1.1 200"), "{}", String::from_utf8_lossy(&self.buffer));
        assert_eq!(self.is_stream, text.contains("text/event-stream"), "{text}");
        let length =
            text.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        Some(length.map_or(End::Mark, |length| End::At(head + length)))
    }
}

/// Where an answer ends.
#[derive(Clone, Copy)]
enum End {
    At(usize),
    /// With the last of its chunks.
    Mark,
}
