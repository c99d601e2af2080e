//! HTTP/2 to nodes: without TLS (h2c) and with.

use crate::support::gateway::TestGateway;
use crate::support::node::{Reply, TestNode, chat, chunk, ending};
use crate::support::processes::{MODEL, start_cortex_with, start_neuron, until_up};
use crate::support::tls::{Certificate, in_front_of};
use crate::support::{Client, until};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};

fn ask(stream: bool) -> Value {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "x"}]})
}

/// Passes connections on, and counts them; `cut` ends those that are open.
struct Door {
    address: std::net::SocketAddr,
    opened: Arc<AtomicUsize>,
    cut: tokio::sync::watch::Sender<()>,
}

async fn door(node: &TestNode) -> Door {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, opened) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let (behind, count, cut) = (node.address, opened.clone(), tokio::sync::watch::Sender::new(()));
    let cuts = cut.clone();
    crate::support::node::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let mut cut = cuts.subscribe();
            crate::support::node::spawn(async move {
                let mut node = TcpStream::connect(behind).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut stream, &mut node) => {}
                    _ = cut.changed() => {}
                }
            });
        }
    });
    Door { address, opened, cut }
}

fn neuron(endpoint: &str, more: &str) -> String {
    format!("[[neurons]]\nname = \"n\"\nendpoint = \"{endpoint}\"\nhttp2 = true\n{more}")
}

#[tokio::test(flavor = "multi_thread")]
async fn all_requests_share_a_connection_and_a_new_one_takes_its_place() {
    let node = TestNode::with_model().await;
    node.lock().always = Some(Reply::Whole(200, chat("m", "hi")));
    let door = door(&node).await;
    let gateway =
        TestGateway::start_with(&[], &[], "", "", &neuron(&format!("http://{}", door.address), "")).await;
    let many = || {
        futures_util::future::join_all(
            (0..20).map(|_| async { gateway.client.post("/v1/chat/completions", &ask(false)).await.status }),
        )
    };
    assert_eq!(many().await, [200; 20]);
    // One for them, one for polls.
    assert_eq!(door.opened.load(Ordering::SeqCst), 2);
    assert_eq!(node.lock().headers[0]["x-request-id"].len(), 20);
    // Whoever had been sent is told or tried anew; whoever comes then has a new connection.
    door.cut.send_replace(());
    until("it serves", async || gateway.client.post("/v1/chat/completions", &ask(false)).await.status == 200)
        .await;
    assert_eq!(many().await, [200; 20]);
    until("both are new", async || door.opened.load(Ordering::SeqCst) == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_told_as_they_come_and_cancelled_when_nobody_reads() {
    let node = TestNode::with_model().await;
    let door = door(&node).await;
    let gateway =
        TestGateway::start_with(&[], &[], "", "", &neuron(&format!("http://{}", door.address), "")).await;
    let fed = async || {
        let (feed, fed) = mpsc::channel(1);
        node.reply(Reply::Fed(Arc::new(Mutex::new(fed))));
        feed.send(chunk("m", "one")).await.unwrap();
        let mut stream = gateway.client.stream("/v1/chat/completions", &ask(true)).await;
        assert!(stream.next().await.unwrap().contains("one"), "before the next is sent");
        (feed, stream)
    };
    let (feed, mut whole) = fed().await;
    for piece in ending("m") {
        feed.send(piece).await.unwrap();
    }
    drop(feed);
    assert!(whole.rest().await.ends_with("data: [DONE]\n\n"));
    let (feed, left) = fed().await;
    drop(left);
    until("the node is told", async || feed.send(chunk("m", "more")).await.is_err()).await;
    let (_feed, mut broken) = fed().await;
    door.cut.send_replace(());
    let rest = broken.rest().await;
    assert!(rest.contains("data: {\"error\""), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_its_nodes_configuration() {
    let node = TestNode::with_model().await;
    let lines = neuron(&format!("http://{}", node.address), "");
    let gateway = TestGateway::start_with(&[], &[], "", "", &lines).await;
    let (feed, fed) = mpsc::channel(4);
    node.reply(Reply::Fed(Arc::new(Mutex::new(fed))));
    feed.send(chunk("m", "one")).await.unwrap();
    let mut stream = gateway.client.stream("/v1/chat/completions", &ask(true)).await;
    assert!(stream.next().await.unwrap().contains("one"));
    let file = gateway.dir.path().join("cortex.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("name = \"n\"", "name = \"other\"");
    std::fs::write(&file, text).unwrap();
    gateway
        .until("the node is another", |s| s["nodes"][0]["name"] == "other" && s["nodes"][0]["state"] == "up")
        .await;
    for piece in ending("m") {
        feed.send(piece).await.unwrap();
    }
    drop(feed);
    assert!(stream.rest().await.ends_with("data: [DONE]\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_it_is_agreed_on() {
    let (node, dir) = (TestNode::with_model().await, tempfile::tempdir().unwrap());
    node.lock().always = Some(Reply::Whole(200, chat("m", "hi")));
    let certificate = Certificate::new();
    let address = in_front_of(node.address, &certificate).await;
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &certificate.pem).unwrap();
    let neurons = neuron(&format!("https://localhost:{}", address.port()), &format!("ca_file = {ca:?}\n"));
    let gateway = TestGateway::start_with(&[], &[], "", "", &neurons).await;
    let said = gateway.client.post("/v1/chat/completions", &ask(false)).await;
    assert_eq!(said.status, 200, "{}", said.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_neuron_speaks_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_neuron, address) = start_neuron(dir.path(), "127.0.0.1:0");
    let (_cortex, url, _) = start_cortex_with(dir.path(), &neuron(&format!("http://{address}"), ""), &[]);
    let client = Client::new(&url);
    until_up(&client).await;
    let body = json!({"model": MODEL, "stream": true, "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]});
    let mut stream = client.stream("/v1/chat/completions", &body).await;
    let text = stream.rest().await;
    assert!(stream.status == 200 && text.ends_with("data: [DONE]\n\n"), "{text}");
}
