//! TLS and Unix sockets, towards clients and towards nodes.

use crate::support::gateway::TestGateway;
use crate::support::node::{Reply, TestNode, chat, spawn};
use crate::support::tls::{Certificate, Http2, in_front_of};
use crate::support::until;
use bytes::Bytes;
use cortex::upstream::{Access, Peer, Upstream};
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;

fn body() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "x"}]})
}

async fn node() -> TestNode {
    let node = TestNode::with_model().await;
    node.lock().always = Some(Reply::Whole(200, chat("m", "hi")));
    node
}

/// A gateway that shows this certificate to its clients and operators. Tests ask it by the address that is returned:
/// its own clients speak no TLS.
async fn secure(node: &TestNode, dir: &Path, certificate: &Certificate, more: &str) -> Secure {
    write(dir, certificate);
    let tls =
        format!("tls = {{ certificate = {:?}, key = {:?}{more} }}\n", dir.join("c.pem"), dir.join("k.pem"));
    let gateway = TestGateway::start(&[node], &[], &tls, "").await;
    let address = gateway.client.address();
    Secure { gateway, address }
}

struct Secure {
    gateway: TestGateway,
    address: SocketAddr,
}

fn write(dir: &Path, certificate: &Certificate) {
    std::fs::write(dir.join("c.pem"), &certificate.pem).unwrap();
    std::fs::write(dir.join("k.pem"), &certificate.key).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_speak_either_http_over_tls_and_a_new_certificate_is_shown_from_then_on() {
    let (node, dir) = (node().await, tempfile::tempdir().unwrap());
    let first = Certificate::new();
    let secure = secure(&node, dir.path(), &first, "").await;
    let mut old = Http2::connect(secure.address, &first).await.unwrap();
    let (status, said) = old.ask("POST", "/v1/chat/completions", body().to_string()).await;
    assert!(status == 200 && said.contains("hi"), "{said}");
    // And HTTP/1.1, with what cortex itself asks nodes with.
    let access = Access {
        endpoint: format!("https://localhost:{}", secure.address.port()),
        ca: Some(first.pem.clone()),
        ..Access::default()
    };
    let peer = Peer::open(&access).unwrap();
    let answer = Upstream.send(&peer, Method::GET, "/health", &HeaderMap::new(), Bytes::new()).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.into_body().whole(1000).await.unwrap();

    // Half of a change is refused, and what is there stays.
    let second = Certificate::new();
    std::fs::write(dir.path().join("c.pem"), &second.pem).unwrap();
    secure
        .gateway
        .until("it is refused", |s| {
            s["config"]["last_reload"]["error"].as_str().is_some_and(|e| e.contains("gateway.tls.key"))
        })
        .await;
    assert!(Http2::connect(secure.address, &first).await.is_some());
    write(dir.path(), &second);
    until("the new one is shown", async || Http2::connect(secure.address, &second).await.is_some()).await;
    assert!(Http2::connect(secure.address, &first).await.is_none());
    let (status, _) = old.ask("GET", "/health", String::new()).await;
    assert_eq!(status, 200, "a connection outlives the certificate that it began with");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_tls_is_not_served_where_there_is_a_certificate() {
    let (node, dir) = (node().await, tempfile::tempdir().unwrap());
    let secure = secure(&node, dir.path(), &Certificate::new(), "").await;
    assert!(secure.gateway.client.try_post("/v1/chat/completions", body().to_string()).await.is_none());
    assert!(node.lock().asked.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_behind_tls_are_asked_where_their_certificate_is_trusted() {
    let (node, dir) = (node().await, tempfile::tempdir().unwrap());
    let (ours, others) = (Certificate::new(), Certificate::new());
    let address = in_front_of(node.address, &ours).await;
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &ours.pem).unwrap();
    let neurons = format!(
        "[[neurons]]\nname = \"secure\"\nendpoint = \"https://localhost:{}\"\nca_file = {ca:?}\n",
        address.port()
    );
    let gateway = TestGateway::start_with(&[], &[], "", "", &neurons).await;
    let said = gateway.client.post("/v1/chat/completions", &body()).await;
    assert_eq!(said.status, 200, "{}", said.text());
    assert_eq!(gateway.last_request().await["node"], "secure");
    // Not any more.
    std::fs::write(&ca, &others.pem).unwrap();
    let says = |node: &Value| node["error"].as_str().is_some_and(|error| error.contains("certificate"));
    gateway.until("it is not trusted", |s| s["nodes"][0]["state"] == "down" && says(&s["nodes"][0])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_on_either_side() {
    let (node, dir) = (node().await, tempfile::tempdir().unwrap());
    let (behind, socket) = (node.address, dir.path().join("node.sock"));
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            spawn(async move {
                let mut node = tokio::net::TcpStream::connect(behind).await.unwrap();
                let _either_left = tokio::io::copy_bidirectional(&mut stream, &mut node).await;
            });
        }
    });
    let clients = dir.path().join("cortex.sock");
    // What a process that was killed has left behind is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&clients).unwrap());
    let neurons = format!("[[neurons]]\nname = \"near\"\nendpoint = \"unix:{}\"\n", socket.display());
    let more = format!("keepalive_after_secs = 9\nlisten = \"unix:{}\"", clients.display());
    let mut gateway = TestGateway::start_with(&[], &[], &more, "", &neurons).await;
    let peer = Peer::new(&format!("unix:{}", clients.display()), None).unwrap();
    let said: Value = Upstream
        .post(&peer, "/v1/chat/completions", &body(), std::time::Duration::from_secs(30))
        .await
        .unwrap();
    assert_eq!(said["choices"][0]["message"]["content"], "hi");
    assert_eq!(gateway.last_request().await["node"], "near");
    // Another gateway does not take the place of one that runs.
    let error = crate::support::gateway::try_start(gateway.dir.path()).await.unwrap_err();
    assert!(format!("{error:#}").contains("another process listens there"), "{error:#}");
    gateway.gateway.shutdown.cancel();
    (&mut gateway.serving).await.unwrap();
    assert!(!clients.exists(), "it goes with its gateway");
    // A file that somebody needs is not taken for what a gateway left behind.
    std::fs::write(&clients, "precious").unwrap();
    let error = crate::support::gateway::try_start(gateway.dir.path()).await.unwrap_err();
    assert!(format!("{error:#}").contains("no socket"), "{error:#}");
    assert_eq!(std::fs::read_to_string(&clients).unwrap(), "precious");
}
