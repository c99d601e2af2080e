//! Bodies of requests that come slowly, or in chunks without a length.

use crate::support::http::{raw, until_closed};
use crate::support::{TestGateway, TestNode};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_gets_a_408_and_holds_no_session() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &["anthropic"], "body_timeout_secs = 1.0", "").await;
    let all = gateway.gateway.sessions.available_permits();
    for (path, part) in
        [("/v1/chat/completions", "\"code\":\"request_timeout\""), ("/v1/messages", "\"type\":\"error\"")]
    {
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{");
        let mut stream = raw(&gateway.client.base, &head).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(gateway.gateway.sessions.available_permits(), all, "{path}");
        let answer = until_closed(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{path}: {answer}");
        assert!(answer.contains(part), "{path}: {answer}");
        assert_eq!(gateway.last_request().await["status"], 408);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_over_the_limit_gets_a_413() {
    let gateway = TestGateway::start(&[], &["anthropic"], "body_limit_mb = 1", "").await;
    for path in ["/v1/chat/completions", "/v1/messages"] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        );
        let mut stream = raw(&gateway.client.base, &head).await;
        let piece = "x".repeat(1 << 18);
        for _ in 0..5 {
            stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await.unwrap();
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        let answer = until_closed(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{path}: {answer}");
        assert!(answer.contains("larger than 1 MiB"), "{path}: {answer}");
    }
}
