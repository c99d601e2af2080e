//! Nodes that break every rule of HTTP and of streams: what they had not begun to answer is answered by another, and
//! what they had begun ends with an error.

use crate::support::gateway::TestGateway;
use crate::support::node::{Reply, TestNode, chat, chunk, ending};
use crate::support::rawnode::{Fault, RawNode};
use crate::support::until;
use serde_json::{Value, json};

const OK: &str = "HTTP/1.1 200 OK\r\n";
const SSE: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const HEADER: &str = "x-more: 0123456789012345678901234567890123456789012345678901234567890123456789\r\n";
const COMMENT: &str = "10\r\n: still working\n\r\n";

fn ask(stream: bool) -> Value {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "x"}]})
}

/// A gateway whose first node has that fault, and whose second is well where `good`.
async fn with(fault: Fault, good: bool, gateway: &str) -> (RawNode, TestNode, TestGateway) {
    let (behind, other) = (TestNode::with_model().await, TestNode::with_model().await);
    let raw = RawNode::start(&behind, fault).await;
    let second = format!("[[neurons]]\nname = \"other\"\nendpoint = \"http://{}\"\n", other.address);
    let neurons = format!(
        "[[neurons]]\nname = \"raw\"\nendpoint = \"http://{}\"\n{}",
        raw.address,
        if good { second.as_str() } else { "" }
    );
    let gateway = TestGateway::start_with(&[], &[], gateway, "", &neurons).await;
    // The node behind lives in the background, for as long as the test's runtime.
    (raw, other, gateway)
}

/// Before the first byte of an answer.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a table: name, bytes")]
async fn what_had_not_begun_is_answered_by_the_other_node() {
    let spaces: &'static str = Box::leak(" ".repeat(1 << 16).into_boxed_str());
    let faults = [
        ("a reset", Fault::Reset),
        ("a closed connection", Fault::Bytes("")),
        ("half a head", Fault::Bytes("HTTP/1.1 200 OK\r\ncontent-le")),
        ("no HTTP", Fault::Bytes("SSH-2.0-OpenSSH\r\n\r\n")),
        ("HTTP/0.9", Fault::Bytes("<html>hello</html>\r\n\r\n")),
        ("another version", Fault::Bytes("HTTP/3.0 200 OK\r\n\r\n")),
        ("a negative length", Fault::Bytes("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n")),
        ("two lengths", Fault::Bytes("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx")),
        (
            "a length and chunks",
            Fault::Bytes(
                "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
        ),
        ("a folded header", Fault::Bytes("HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n")),
        ("a header without an end", Fault::Endless(OK, HEADER)),
        ("a status without an end", Fault::Endless("HTTP/1.1 200 ", "OOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOO")),
        ("an upgrade", Fault::Bytes("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n")),
        ("informational for ever", Fault::Endless("", "HTTP/1.1 102 Processing\r\n\r\n")),
        ("an empty answer", Fault::Bytes("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")),
        ("a page", Fault::Bytes("HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n<html></html>")),
        ("a short body", Fault::Bytes("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{}")),
        ("a bad chunk", Fault::Bytes("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")),
        (
            "a chunk without an end",
            Fault::Endless("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "fff\r\n"),
        ),
        (
            "a stream without an event",
            Fault::Bytes(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
        ),
        (
            "half an event",
            Fault::Bytes(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n6\r\ndata: \r\n0\r\n\r\n",
            ),
        ),
        ("an event without an end", Fault::Endless(SSE, "20\r\ndata: 0123456789012345678901234\n\r\n")),
        (
            "a body without an end",
            Fault::Endless("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n", spaces),
        ),
    ];
    for (what, fault) in faults {
        let began = std::time::Instant::now();
        let (raw, other, gateway) = with(fault, true, "").await;
        let streamed = [vec![chunk("m", "hi")], ending("m")].concat();
        for turn in 0..20 {
            let stream = turn % 2 == 1;
            other.reply(if stream {
                Reply::Pieces(streamed.clone())
            } else {
                Reply::Whole(200, chat("m", "hi"))
            });
            let said = gateway.client.post("/v1/chat/completions", &ask(stream)).await;
            assert!(
                said.status == 200 && said.text().contains("hi"),
                "{what}: {} {}",
                said.status,
                said.text()
            );
            if raw.asked() > 1 {
                break;
            }
            assert!(turn < 19, "{what}: it was not asked");
        }
        eprintln!("{what}: answered by the other {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_node_is_waited_for() {
    let body = chat("m", "slowly").to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (raw, _other, gateway) = with(Fault::Slow(Box::leak(answer.into_boxed_str())), false, "").await;
    let said = gateway.client.post("/v1/chat/completions", &ask(false)).await;
    assert!(said.status == 200 && said.text().contains("slowly"), "{}", said.text());
    assert_eq!(raw.asked(), 1);
}

/// One that says nothing, and one that says that it lives and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_begins_is_given_up_in_time() {
    for fault in [Fault::Hang, Fault::Murmur(SSE, COMMENT)] {
        let (_raw, _other, gateway) = with(fault, false, "max_wait_secs = 1.0").await;
        gateway.until("it is up", |s| s["nodes"][0]["state"] == "up").await;
        let said = gateway.client.post("/v1/chat/completions", &ask(true)).await;
        assert_eq!((said.status, said.json()["error"]["code"].as_str()), (503, Some("node_timeout")));
        assert!(!said.header("retry-after").is_empty());
    }
}

/// After the first event: never silently.
#[tokio::test(flavor = "multi_thread")]
async fn what_had_begun_ends_with_an_error() {
    const FIRST: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one\"}}]}\n\n";
    let chunked = |more: &str| format!("{SSE}{:x}\r\n{FIRST}\r\n{more}", FIRST.len());
    for (what, more) in [
        ("the end", ""),
        ("the last chunk", "0\r\n\r\n"),
        ("half an event", "6\r\ndata: \r\n0\r\n\r\n"),
        ("half a chunk", "ff\r\ndata: "),
        ("no chunk", "nonsense\r\n"),
    ] {
        let answer: &'static str = Box::leak(chunked(more).into_boxed_str());
        let (_raw, _other, gateway) = with(Fault::Bytes(answer), false, "").await;
        let mut stream = gateway.client.stream("/v1/chat/completions", &ask(true)).await;
        let text = stream.rest().await;
        let last = text.trim_end().rsplit("\n\n").next().unwrap();
        assert!(
            stream.status == 200 && text.contains("one") && last.starts_with("data: {\"error\""),
            "{what}: {text}"
        );
        until("it is booked", async || gateway.last_request().await["status"] == 502).await;
    }
}
