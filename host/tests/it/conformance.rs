//! HTTP as its specifications have it, and clients that do not: over raw sockets, request by request and frame by frame.

use crate::support::gateway::TestGateway;
use crate::support::http::{raw, until_closed};
use crate::support::node::{Reply, TestNode, chat};
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn gateway() -> (TestNode, TestGateway) {
    let node = TestNode::with_model().await;
    node.lock().always = Some(Reply::Whole(200, chat("m", "hi")));
    let gateway = TestGateway::start(&[&node], &[], "", "").await;
    (node, gateway)
}

fn body() -> String {
    json!({"model": "m", "messages": [{"role": "user", "content": "x"}]}).to_string()
}

/// Statuses of the answers in `text`, in their order.
fn statuses(text: &str) -> Vec<u16> {
    text.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)?.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_could_be_read_in_two_ways_are_refused_and_reach_no_node() {
    let (node, gateway) = gateway().await;
    let smuggled = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n";
    let long = format!("x: {}\r\n", "a".repeat(1 << 20));
    let many = "x: y\r\n".repeat(1000);
    let cases = [
        ("two lengths", format!("{head}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}{smuggled}")),
        ("a list of lengths", format!("{head}content-length: 2, 3\r\n\r\n{{}}{smuggled}")),
        ("a length that is none", format!("{head}content-length: +2\r\n\r\n{{}}{smuggled}")),
        ("another coding", format!("{head}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}")),
        (
            "chunked, then another",
            format!("{head}transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        ("a folded header", format!("{head}x: a\r\n b\r\ncontent-length: 2\r\n\r\n{{}}{smuggled}")),
        ("a space before the colon", format!("{head}content-length : 2\r\n\r\n{{}}{smuggled}")),
        (
            "a name with a control character",
            format!("{head}x\x01y: z\r\ncontent-length: 2\r\n\r\n{{}}{smuggled}"),
        ),
        ("a value with a null", format!("{head}x: a\0b\r\ncontent-length: 2\r\n\r\n{{}}{smuggled}")),
        ("a chunk size that is none", format!("{head}transfer-encoding: chunked\r\n\r\n-1\r\n{smuggled}")),
        (
            "a chunk size past all",
            format!("{head}transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{smuggled}"),
        ),
        ("a megabyte of header", format!("{head}{long}\r\n")),
        ("a thousand headers", format!("{head}{many}\r\n")),
        ("no request", "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\r\n\r\n".to_owned()),
    ];
    for (what, request) in cases {
        let mut stream = TcpStream::connect(gateway.client.address()).await.unwrap();
        // It may close before it has read all of it.
        let _closed = stream.write_all(request.as_bytes()).await;
        let mut all = Vec::new();
        let reading = stream.read_to_end(&mut all);
        // A reset is an end as well.
        let _reset = tokio::time::timeout(Duration::from_secs(20), reading).await.expect(what);
        let text = String::from_utf8_lossy(&all);
        let answers = statuses(&text);
        let is_refused = answers.iter().all(|status| [400, 431, 501].contains(status)) && answers.len() <= 1;
        assert!(is_refused, "{what}: {text}");
        assert!(node.lock().asked.is_empty(), "{what}");
    }
    // RFC 9112, 6.3: chunks win over a length, and the connection does not go on.
    let both = format!(
        "{head}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n{smuggled}",
        body().len(),
        body()
    );
    let mut stream = raw(&gateway.client.base, &both).await;
    let text = until_closed(&mut stream).await;
    assert!(matches!(statuses(&text)[..], [200 | 400]), "one answer and the end: {text}");
    assert_eq!(
        gateway.client.post("/v1/chat/completions", &serde_json::from_str(&body()).unwrap()).await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unusual_and_right_is_served() {
    let (node, gateway) = gateway().await;
    let (body, path) = (body(), "/v1/chat/completions");
    let post = |more: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n{more}\r\n{body}", body.len())
    };
    let last = post("connection: close\r\n");
    let long = format!("connection: close\r\nx: {}\r\n", "a".repeat(64 << 10));
    let cases: [(&str, String, &[u16]); 8] = [
        ("a header of 64 KB", post(&long), &[200]),
        ("pipelined", post("") + &post("") + &last, &[200, 200, 200]),
        ("bare line feeds", last.replace("\r\n", "\n"), &[200]),
        ("empty lines before it", format!("\r\n\r\n{last}"), &[200]),
        ("an absolute target", last.replacen(path, &format!("http://x{path}"), 1), &[200]),
        ("a query", last.replacen(path, &format!("{path}?beta=true"), 1), &[200]),
        (
            "chunks with extensions and trailers",
            format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
                 5;a=b\r\n{}\r\n{:X}\r\n{}\r\n0\r\nx-trailer: y\r\n\r\n",
                &body[..5],
                body.len() - 5,
                &body[5..]
            ),
            &[200],
        ),
        ("HTTP/1.0", post("").replace("HTTP/1.1", "HTTP/1.0"), &[200]),
    ];
    for (what, request, want) in cases {
        let mut stream = raw(&gateway.client.base, &request).await;
        let text = until_closed(&mut stream).await.replace("HTTP/1.0", "HTTP/1.1");
        assert_eq!(statuses(&text), want, "{what}: {text}");
    }
    // Whoever waits to be told gets told.
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = raw(&gateway.client.base, &head).await;
    let mut told = [0; 25];
    stream.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.unwrap();
    assert_eq!(statuses(&until_closed(&mut stream).await), [200]);
    // HEAD has no body, whatever its length says.
    let mut stream =
        raw(&gateway.client.base, "HEAD /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let text = until_closed(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n\r\n"), "{text}");
    assert!(node.lock().asked.iter().all(|(asked, _)| asked == path));
}

/// Whoever says nothing, or too little to tell which HTTP it speaks, holds no file for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_closed() {
    let (_node, gateway) = gateway().await;
    let silent =
        ["", "PR", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /health HTTP/1.1\r\nho"].map(async |said| {
            let mut stream = raw(&gateway.client.base, said).await;
            let mut all = Vec::new();
            let reading = stream.read_to_end(&mut all);
            let _closed = tokio::time::timeout(Duration::from_secs(50), reading).await.expect(said);
        });
    futures_util::future::join_all(silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_body_is_refused_by_name() {
    let (node, gateway) = gateway().await;
    for encoding in ["gzip", "br", "zstd", "gzip, gzip"] {
        let headers = [("content-encoding", encoding)];
        let said =
            gateway.client.call("POST", "/v1/chat/completions", &headers, vec![0x1f, 0x8b, 8, 0]).await;
        assert!(said.status == 415 && said.text().contains(encoding), "{}", said.text());
    }
    let headers = [("content-encoding", "identity")];
    assert_eq!(gateway.client.call("POST", "/v1/chat/completions", &headers, body()).await.status, 200);
    assert_eq!(node.lock().asked.len(), 1);
}

/// A connection of HTTP/2, frame by frame.
struct Frames(TcpStream);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET /health` of `x` over http, from the static table: no Huffman, nothing remembered.
const GET_HEALTH: &[u8] = b"\x82\x86\x04\x07/health\x01\x01x";

/// `POST /v1/chat/completions`, which waits for its body: `/health` may be answered before the next frame comes.
const POST_CHAT: &[u8] = b"\x83\x86\x04\x14/v1/chat/completions\x01\x01x";

impl Frames {
    async fn connect(gateway: &TestGateway) -> Self {
        let mut stream = TcpStream::connect(gateway.client.address()).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut frames = Self(stream);
        frames.send(SETTINGS, 0, 0, b"").await;
        frames
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend_from_slice(payload);
        // It may have closed already; what it said before is still to be read.
        let _closed = self.0.write_all(&frame).await;
    }

    /// Kind, flags, stream, payload; `None` at the end.
    async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let reading = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
            Some((head[3], head[4], stream, payload))
        };
        tokio::time::timeout(Duration::from_secs(20), reading).await.expect("a frame within 20 s")
    }

    /// The code of the error that ends the connection, or the stream; `None` where it ends without one.
    async fn error(&mut self) -> Option<u32> {
        loop {
            let (kind, _, _, payload) = self.next().await?;
            let at = match kind {
                GOAWAY => 4,
                RST_STREAM => 0,
                _ => continue,
            };
            let code = u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            if code != 0 {
                return Some(code);
            }
        }
    }

    async fn until(&mut self, wanted: u8) -> (u8, u32, Vec<u8>) {
        loop {
            let (kind, flags, stream, payload) = self.next().await.expect("it goes on");
            if kind == wanted {
                return (flags, stream, payload);
            }
        }
    }
}

/// After h2spec: what of a connection has to work.
#[tokio::test(flavor = "multi_thread")]
async fn http2_in_good_order() {
    let (_node, gateway) = gateway().await;
    let mut frames = Frames::connect(&gateway).await;
    frames.send(PING, 0, 0, b"12345678").await;
    let (flags, stream, payload) = frames.until(PING).await;
    assert_eq!((flags & ACK, stream, &payload[..]), (ACK, 0, &b"12345678"[..]));
    // 5.5: frames of kinds that nobody knows are ignored.
    frames.send(0xfa, 0xff, 0, b"whatever").await;
    // 6.2, 6.10: a head in pieces.
    frames.send(HEADERS, END_STREAM, 1, &GET_HEALTH[..5]).await;
    frames.send(CONTINUATION, END_HEADERS, 1, &GET_HEALTH[5..]).await;
    let (_, stream, head) = frames.until(HEADERS).await;
    // 8: `:status: 200` of the static table.
    assert_eq!((stream, head[0]), (1, 0x88));
    let (_, _, data) = frames.until(DATA).await;
    assert!(String::from_utf8_lossy(&data).contains("nodes_up"));
    // 5.1.1: the next one, on the same connection.
    frames.send(HEADERS, END_STREAM | END_HEADERS, 3, GET_HEALTH).await;
    assert_eq!(frames.until(HEADERS).await.1, 3);
}

/// After h2spec, by section of RFC 9113: what has to end a connection or a stream, with which error. The library says
/// PROTOCOL_ERROR of some for which the RFC has a code of their own.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a table: section, frames, codes")]
async fn http2_out_of_order() {
    const PROTOCOL: u32 = 1;
    const FLOW_CONTROL: u32 = 3;
    const STREAM_CLOSED: u32 = 5;
    const FRAME_SIZE: u32 = 6;
    const COMPRESSION: u32 = 9;
    let (node, gateway) = gateway().await;
    type Frame = (u8, u8, u32, Vec<u8>);
    let cases: Vec<(&str, Vec<Frame>, &[u32])> = vec![
        ("4.2 a frame larger than allowed", vec![(DATA, 0, 1, vec![0; 16_385])], &[FRAME_SIZE]),
        (
            "4.3 a head that cannot be decoded",
            vec![(HEADERS, END_HEADERS | END_STREAM, 1, vec![0xff; 8])],
            &[COMPRESSION, PROTOCOL],
        ),
        ("5.1 data on a stream that is idle", vec![(DATA, 0, 1, vec![0])], &[PROTOCOL, STREAM_CLOSED]),
        (
            "5.1.1 an even stream",
            vec![(HEADERS, END_STREAM | END_HEADERS, 2, GET_HEALTH.to_vec())],
            &[PROTOCOL],
        ),
        ("6.1 data on no stream", vec![(DATA, 0, 0, vec![0])], &[PROTOCOL]),
        (
            "6.2 a head on no stream",
            vec![(HEADERS, END_STREAM | END_HEADERS, 0, GET_HEALTH.to_vec())],
            &[PROTOCOL],
        ),
        (
            "6.2 more padding than there is",
            vec![(HEADERS, END_STREAM | END_HEADERS | 8, 1, vec![200, 0x82])],
            &[PROTOCOL],
        ),
        ("6.4 a reset of no stream", vec![(RST_STREAM, 0, 0, vec![0; 4])], &[PROTOCOL]),
        ("6.4 a reset of an idle stream", vec![(RST_STREAM, 0, 1, vec![0; 4])], &[PROTOCOL]),
        ("6.4 a reset of another size", vec![(RST_STREAM, 0, 1, vec![0; 3])], &[FRAME_SIZE, PROTOCOL]),
        ("6.5 settings of a stream", vec![(SETTINGS, 0, 1, vec![])], &[PROTOCOL]),
        ("6.5 settings of another size", vec![(SETTINGS, 0, 0, vec![0; 5])], &[FRAME_SIZE, PROTOCOL]),
        (
            "6.5 an acknowledgement that says more",
            vec![(SETTINGS, ACK, 0, vec![0; 6])],
            &[FRAME_SIZE, PROTOCOL],
        ),
        (
            "6.5.2 a window past all",
            vec![(SETTINGS, 0, 0, vec![0, 4, 0xff, 0xff, 0xff, 0xff])],
            &[FLOW_CONTROL, PROTOCOL],
        ),
        ("6.5.2 a frame size below all", vec![(SETTINGS, 0, 0, vec![0, 5, 0, 0, 0, 1])], &[PROTOCOL]),
        (
            "6.6 a client that pushes",
            vec![(PUSH_PROMISE, END_HEADERS, 1, vec![0, 0, 0, 2, 0x82])],
            &[PROTOCOL],
        ),
        ("6.7 a ping of another size", vec![(PING, 0, 0, vec![0; 6])], &[FRAME_SIZE, PROTOCOL]),
        ("6.7 a ping of a stream", vec![(PING, 0, 1, vec![0; 8])], &[PROTOCOL]),
        ("6.9 a window that grows by nothing", vec![(WINDOW_UPDATE, 0, 0, vec![0; 4])], &[PROTOCOL]),
        (
            "6.9.1 a window past all",
            vec![(WINDOW_UPDATE, 0, 0, vec![0x7f, 0xff, 0xff, 0xff])],
            &[FLOW_CONTROL],
        ),
        (
            "6.10 a continuation of nothing",
            vec![(CONTINUATION, END_HEADERS, 1, GET_HEALTH.to_vec())],
            &[PROTOCOL],
        ),
        (
            "6.10 something within a head",
            vec![(HEADERS, END_STREAM, 1, GET_HEALTH.to_vec()), (PING, 0, 0, vec![0; 8])],
            &[PROTOCOL],
        ),
        (
            "8.1 two heads",
            vec![
                (HEADERS, END_HEADERS, 1, POST_CHAT.to_vec()),
                (HEADERS, END_HEADERS, 1, POST_CHAT.to_vec()),
            ],
            &[PROTOCOL],
        ),
        (
            "8.2.1 an upper-case name",
            vec![(HEADERS, END_STREAM | END_HEADERS, 1, [GET_HEALTH, b"\x00\x01X\x01y"].concat())],
            &[PROTOCOL],
        ),
        (
            "8.2.2 a field of the connection",
            vec![(
                HEADERS,
                END_STREAM | END_HEADERS,
                1,
                [GET_HEALTH, b"\x00\x0aconnection\x05close"].concat(),
            )],
            &[PROTOCOL],
        ),
        (
            "8.3 a pseudo-field behind others",
            vec![(HEADERS, END_STREAM | END_HEADERS, 1, [b"\x00\x01x\x01y", GET_HEALTH].concat())],
            &[PROTOCOL],
        ),
        (
            "8.3.1 no path",
            vec![(HEADERS, END_STREAM | END_HEADERS, 1, b"\x82\x86\x01\x01x".to_vec())],
            &[PROTOCOL],
        ),
        (
            "8.1.1 less body than its length",
            vec![
                (HEADERS, END_HEADERS, 1, [POST_CHAT, b"\x00\x0econtent-length\x015"].concat()),
                (DATA, END_STREAM, 1, vec![b'x']),
            ],
            &[PROTOCOL],
        ),
    ];
    let mut wrong = Vec::new();
    for (what, sent, errors) in cases {
        let mut frames = Frames::connect(&gateway).await;
        for (kind, flags, stream, payload) in &sent {
            frames.send(*kind, *flags, *stream, payload).await;
        }
        let error = tokio::time::timeout(Duration::from_secs(15), frames.error()).await;
        let error = error.unwrap_or_else(|_| panic!("{what}: nothing is said and nothing closed"));
        if !error.is_none_or(|error| errors.contains(&error)) {
            wrong.push(format!("{what}: {error:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(node.lock().asked.is_empty());
}

/// Of streams that are reset at once (CVE-2023-44487), and of heads that never end (CVE-2024-27316).
#[tokio::test(flavor = "multi_thread")]
async fn http2_floods() {
    let (node, gateway) = gateway().await;
    let mut frames = Frames::connect(&gateway).await;
    for stream in 0..5_000 {
        frames.send(HEADERS, END_STREAM | END_HEADERS, stream * 2 + 1, GET_HEALTH).await;
        frames.send(RST_STREAM, 0, stream * 2 + 1, &[0, 0, 0, 8]).await;
    }
    assert!(matches!(frames.error().await, None | Some(11)), "11: enhance your calm");
    let mut frames = Frames::connect(&gateway).await;
    frames.send(HEADERS, END_STREAM, 1, GET_HEALTH).await;
    for _ in 0..5_000 {
        frames.send(CONTINUATION, 0, 1, &[0x00; 1024]).await;
    }
    assert!(frames.error().await.is_some_and(|error| [9, 1, 11].contains(&error)));
    assert!(node.lock().asked.is_empty());
    assert_eq!(gateway.client.get("/health").await.status, 200, "and others are served");
}
