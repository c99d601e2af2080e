//! The gateway's own client of its nodes, against bytes that a library's server would not write.

use cortex::upstream::{Access, Peer, Upstream, UpstreamError};
use http::{HeaderMap, Method, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers each request of a connection with the next of these, then closes it. Counts connections.
async fn raw_node(answers: &'static [&'static str]) -> (Peer, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = Peer::new(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    crate::support::node::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            for answer in answers {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut asked).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
                let _client_left = stream.write_all(answer.as_bytes()).await;
            }
        }
    });
    (peer, opened)
}

async fn ask(peer: &Peer) -> Result<(StatusCode, String), UpstreamError> {
    let answer = Upstream.send(peer, Method::GET, "/x", &HeaderMap::new(), Default::default()).await?;
    let status = answer.status();
    let body = answer.into_body().whole(100).await?;
    Ok((status, String::from_utf8(body.to_vec()).unwrap()))
}

#[tokio::test]
async fn a_connection_is_used_again_and_a_closed_one_is_not() {
    let (peer, opened) = raw_node(&[
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nho\r\n0\r\n\r\n",
    ])
    .await;
    for round in 1..=3 {
        assert_eq!(ask(&peer).await.unwrap().1, "hi");
        assert_eq!(ask(&peer).await.unwrap().1, "ho");
        assert_eq!(opened.load(Ordering::SeqCst), round);
    }
}

#[tokio::test]
async fn what_is_no_answer_is_an_error_that_says_so() {
    let cases: [(&'static [&'static str], &str); 7] = [
        (&[""], "the connection broke: it was closed before an answer"),
        (&["HTTP/1.1 200 OK\r\ncont"], "closed within the head"),
        (&["SSH-2.0-x\r\n\r\n"], "no HTTP"),
        (&["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi"], "closed before the end"),
        (&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n"], "a chunk of the body is malformed"),
        (&["HTTP/1.1 101 Switching Protocols\r\n\r\n"], "another protocol"),
        (
            &["HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n\
            0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"],
            "longer than 100 bytes",
        ),
    ];
    for (answers, says) in cases {
        let (peer, _) = raw_node(answers).await;
        let error = ask(&peer).await.unwrap_err().to_string();
        assert!(error.contains(says), "{answers:?}: {error}");
    }
}

/// What came before a break is given first.
#[tokio::test]
async fn bytes_before_a_malformed_chunk_are_not_lost() {
    let broken = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\nx\r\n";
    let (peer, _) = raw_node(Box::leak(Box::new([broken]))).await;
    let answer = Upstream.send(&peer, Method::GET, "/x", &HeaderMap::new(), Default::default()).await;
    let mut body = answer.unwrap().into_body();
    let mut next = async || std::future::poll_fn(|cx| body.poll_data(cx)).await;
    assert_eq!(next().await.unwrap().unwrap(), "whole");
    assert!(next().await.unwrap().is_err());
    assert!(next().await.is_none());
}

#[test]
fn an_endpoint_says_where_and_through_what() {
    for good in ["http://127.0.0.1:1", "http://[::1]:1", "http://host", "https://h/v1", "unix:/run/node.sock"]
    {
        assert!(Peer::new(good, Some("t")).is_ok(), "{good}");
    }
    for bad in ["ftp://h", "http://u:p@h", "h:1", "", "http://h?x", "unix:relative"] {
        assert!(Peer::new(bad, None).is_err(), "{bad}");
    }
    assert!(Peer::new("http://h", Some("a\nb")).is_err());
    let header = |name: &str, value: &str| {
        let headers = vec![(name.to_owned(), value.to_owned())];
        Peer::open(&Access { endpoint: "http://h".into(), headers, ..Access::default() })
    };
    assert!(header("x-team", "blue").is_ok());
    for (name, value) in [("x team", "b"), ("x", "a\nb"), ("Host", "h"), ("content-length", "0")] {
        assert_eq!(header(name, value).unwrap_err().key(), "headers", "{name}");
    }
    for ca in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let access = Access { endpoint: "https://h".into(), ca: Some(ca.into()), ..Access::default() };
        assert_eq!(Peer::open(&access).unwrap_err().key(), "ca_file");
    }
}
