//! A model that answers at once: neuron's API and OpenAI's, as far as gateways ask. A process of its own.

use neuron_protocol::{Device, DeviceHealth, Discovery, Health, ModelInfo, ModelStatus};
use serde_json::json;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const MODEL: &str = "bench-model";
/// Events of a stream, but for the closing mark.
pub const EVENTS: usize = 100;

pub struct Mock {
    pub address: SocketAddr,
    child: Child,
}

impl Mock {
    pub fn start() -> Self {
        let own = std::env::current_exe().unwrap();
        let mut child = Command::new(own).arg("--mock").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { address: line.trim().parse().unwrap(), child }
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Until it is ended.
pub fn serve() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        std::io::stdout().flush().unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::runtime::Handle::current().spawn(async move {
                let _client_left = connection(stream).await;
            });
        }
    });
}

async fn connection(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(16 << 10);
    loop {
        let head = loop {
            if let Some(at) = memchr::memmem::find(&buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let length =
            text.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let chunked = text.contains("transfer-encoding: chunked");
        let path = text.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let end = loop {
            let end = match chunked {
                true => memchr::memmem::find(&buffer[head..], b"0\r\n\r\n").map(|at| head + at + 5),
                false => Some(head + length.unwrap_or(0)).filter(|end| buffer.len() >= *end),
            };
            if let Some(end) = end {
                break end;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let body: Vec<u8> = buffer[head..end].to_vec();
        buffer.drain(..end);
        answer(&mut stream, &path, &body).await?;
    }
}

async fn answer(stream: &mut TcpStream, path: &str, body: &[u8]) -> std::io::Result<()> {
    let is_chat = path.ends_with("/chat/completions");
    let has = |what: &[u8]| memchr::memmem::find(body, what).is_some();
    if is_chat && has(b"\"stream\":true") {
        return match has(b"comes slowly") {
            true => slow_events(stream).await,
            false => events(stream, has(b"stays idle")).await,
        };
    }
    let answer = if is_chat { chat() } else { about(path) };
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        answer.len()
    );
    stream.write_all(&[head.as_bytes(), answer.as_bytes()].concat()).await
}

fn chat() -> String {
    json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Fair winds and following seas."},
            "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 8, "total_tokens": 20}})
    .to_string()
}

/// Each event is written by itself, as an engine that draws token after token does, without a pause.
async fn events(stream: &mut TcpStream, idle: bool) -> std::io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL,
        "choices": [{"index": 0, "delta": {"content": " wind"}, "finish_reason": null}]});
    let framed = |event: String| format!("{:x}\r\n{event}\r\n", event.len());
    let event = framed(format!("data: {chunk}\n\n"));
    if idle {
        stream.write_all(event.as_bytes()).await?;
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    for _ in 0..EVENTS - 2 {
        stream.write_all(event.as_bytes()).await?;
    }
    let finish = json!({"model": MODEL, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let usage =
        json!({"model": MODEL, "choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 98}});
    for last in [format!("data: {finish}\n\n"), format!("data: {usage}\n\n"), "data: [DONE]\n\n".to_owned()] {
        stream.write_all(framed(last).as_bytes()).await?;
    }
    stream.write_all(b"0\r\n\r\n").await
}

/// Events a second, and for how long.
pub const PACE: u64 = 50;
const SLOW: Duration = Duration::from_secs(6);

/// What an event of [`slow_events`] begins its words with: when it was written, in nanoseconds since the Unix epoch.
pub const STAMP: &str = "at ";

async fn slow_events(stream: &mut TcpStream) -> std::io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut ticks = tokio::time::interval(Duration::from_millis(1000 / PACE));
    for _ in 0..SLOW.as_secs() * PACE {
        ticks.tick().await;
        let event = format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"{MODEL}\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{STAMP}{:020} the wind\"}},\"finish_reason\":null}}]}}\n\n",
            now_ns()
        );
        stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
    }
    let finish =
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    stream.write_all(format!("{:x}\r\n{finish}\r\n0\r\n\r\n", finish.len()).as_bytes()).await
}

/// Nanoseconds since the Unix epoch, the same in every process.
pub fn now_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64)
}

fn about(path: &str) -> String {
    let info = ModelInfo {
        id: MODEL.into(),
        harness: "candle".into(),
        status: ModelStatus::Loaded,
        devices: vec![0],
        vram_used_mb: Some(100),
        ..ModelInfo::default()
    };
    let device =
        Device { index: 0, name: "mock".into(), vram_total_mb: 1000, compute_capability: "9.0".into() };
    let free = DeviceHealth { index: 0, vram_free_mb: 900, ..DeviceHealth::default() };
    let json = match path {
        "/discovery" => serde_json::to_value(Discovery {
            harnesses: vec!["candle".into()],
            devices: vec![device],
            ..Discovery::default()
        }),
        "/health" => {
            serde_json::to_value(Health { uptime_secs: 1, devices: vec![free], ..Health::default() })
        }
        "/models" => serde_json::to_value([info]),
        "/v1/models" => Ok(json!({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1,
            "owned_by": "bench", "max_model_len": 4096}]})),
        _ => Ok(json!({"status": "ok", "version": "0.11.0", "model_path": MODEL})),
    };
    json.unwrap().to_string()
}
