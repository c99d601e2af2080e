//! Streams: what passes, what is hidden, and how they end when they end badly.

use crate::support::node::{chunk, ending};
use crate::support::{Reply, TestGateway, TestNode, until};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

fn ask(extra: Value) -> Value {
    let mut body = json!({"model": "m", "stream": true, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

async fn pair(policies: &[&str], gateway: &str) -> (TestNode, TestGateway) {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], policies, gateway, "").await;
    (node, gateway)
}

#[tokio::test(flavor = "multi_thread")]
async fn native_bytes_pass_and_the_usage_chunk_hides_unless_asked_for() {
    let (node, gateway) = pair(&["affinity"], "").await;
    let mut pieces = vec![": comment\n\n".to_owned(), chunk("m", "é"), chunk("m", "!")];
    pieces.extend(ending("m"));
    node.reply(Reply::Pieces(pieces.clone())).reply(Reply::Pieces(pieces.clone()));
    let got = gateway.client.stream("/v1/chat/completions", &ask(json!({}))).await.rest().await;
    let hidden: Vec<String> = pieces.iter().filter(|p| !p.contains("usage")).cloned().collect();
    assert_eq!(got, hidden.concat());
    assert_eq!(node.lock().asked[0].1["stream_options"]["include_usage"], true);

    node.reply(Reply::Pieces(pieces.clone()));
    let null = ask(json!({"stream_options": null}));
    let got = gateway.client.stream("/v1/chat/completions", &null).await.rest().await;
    assert_eq!(got, hidden.concat());
    assert_eq!(node.lock().asked[1].1["stream_options"]["include_usage"], true);

    let asked = ask(json!({"stream_options": {"include_usage": true}}));
    let got = gateway.client.stream("/v1/chat/completions", &asked).await.rest().await;
    assert_eq!(got, pieces.concat());
    let record = gateway.last_request().await;
    assert_eq!((record["prompt_tokens"].as_u64(), record["completion_tokens"].as_u64()), (Some(7), Some(2)));
    assert!(record["time_to_first_token_s"].as_f64().unwrap() > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_whole_however_they_are_cut() {
    let (node, gateway) = pair(&[], "").await;
    let text = [chunk("m", "näh"), chunk("m", "x")].concat() + &ending("m").concat();
    let cut: Vec<String> =
        text.chars().map(String::from).collect::<Vec<_>>().chunks(7).map(|c| c.concat()).collect();
    node.reply(Reply::Pieces(cut));
    let mut stream = gateway.client.stream("/v1/chat/completions", &ask(json!({}))).await;
    let mut all = String::new();
    while let Some(piece) = stream.next().await {
        assert!(piece.ends_with("\n\n"), "half an event: {piece:?}");
        all.push_str(&piece);
    }
    assert!(all.contains("näh") && all.ends_with("data: [DONE]\n\n"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_leaves_before_the_next_arrives() {
    for (path, mark) in [("/v1/chat/completions", "word1"), ("/v1/messages", "word1")] {
        let (node, gateway) = pair(&["anthropic"], "").await;
        let (feed, fed) = mpsc::channel(4);
        node.reply(Reply::Fed(Arc::new(Mutex::new(fed))));
        feed.send(chunk("m", "word1")).await.unwrap();
        let mut stream = gateway.client.stream(path, &ask(json!({}))).await;
        // The node says nothing more until the client has this.
        assert!(stream.next().await.unwrap().contains(mark), "{path}");
        for piece in [vec![chunk("m", "word2")], ending("m")].concat() {
            feed.send(piece).await.unwrap();
        }
        drop(feed);
        assert!(stream.rest().await.contains("word2"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_mid_stream_ends_it_with_the_dialects_error() {
    let (node, gateway) = pair(&["anthropic"], "").await;
    for reply in [Reply::Broken(vec![chunk("m", "one")]), Reply::Pieces(vec![chunk("m", "one")])] {
        node.reply(reply.clone()).reply(reply);
        let got = gateway.client.stream("/v1/chat/completions", &ask(json!({}))).await.rest().await;
        assert!(got.contains("one"), "{got}");
        let last = got.trim_end().rsplit("\n\n").next().unwrap();
        let error: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(error["error"]["code"], "upstream_broken");

        let got = gateway.client.stream("/v1/messages", &ask(json!({}))).await.rest().await;
        let last = got.trim_end().rsplit("\n\n").next().unwrap();
        assert!(last.starts_with("event: error\n"), "{got}");
        assert!(!got.contains("message_stop"), "{got}");
        assert_eq!(gateway.last_request().await["status"], 502);
    }
    node.reply(Reply::Pieces([vec![chunk("m", "two")], ending("m")].concat()));
    let got = gateway.client.stream("/v1/chat/completions", &ask(json!({}))).await.rest().await;
    assert!(got.contains("two"), "the gateway lives: {got}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_begins_with_an_error_is_a_real_status() {
    let (node, gateway) = pair(&["anthropic"], "").await;
    let error = "data: {\"error\":{\"message\":\"bad image\",\"code\":400}}\n\n".to_owned();
    node.reply(Reply::Pieces(vec![": hi\n\n".into(), error.clone()])).reply(Reply::Pieces(vec![error]));
    let answer = gateway.client.post("/v1/chat/completions", &ask(json!({}))).await;
    assert_eq!((answer.status, answer.json()["error"]["message"].as_str()), (400, Some("bad image")));
    let answer = gateway.client.post("/v1/messages", &ask(json!({}))).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["type"].as_str()),
        (400, Some("invalid_request_error"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_stream_is_kept_alive_and_may_still_fail_in_its_dialect() {
    let (node, gateway) = pair(&["anthropic"], "keepalive_after_secs = 0.15").await;
    for (path, alive, failed) in [
        ("/v1/chat/completions", ": waiting\n\n", "data: {\"error\""),
        ("/v1/messages", "event: ping\ndata: {\"type\":\"ping\"}\n\n", "event: error\n"),
    ] {
        let (feed, fed) = mpsc::channel(4);
        node.reply(Reply::Fed(Arc::new(Mutex::new(fed))));
        let mut stream = gateway.client.stream(path, &ask(json!({}))).await;
        assert_eq!(stream.status, 200);
        assert_eq!(stream.next().await.unwrap(), alive);
        drop(feed); // the node's stream ends before it has said anything
        let rest = stream.rest().await;
        assert!(rest.contains(failed), "{path}: {rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_is_given_up() {
    let (node, gateway) = pair(&[], "stall_timeout_secs = 0.3").await;
    let (feed, fed) = mpsc::channel(4);
    node.reply(Reply::Fed(Arc::new(Mutex::new(fed))));
    feed.send(chunk("m", "one")).await.unwrap();
    let got = gateway.client.stream("/v1/chat/completions", &ask(json!({}))).await.rest().await;
    assert!(got.contains("upstream_broken"), "{got}");
    assert!(gateway.last_request().await["error"].as_str().unwrap().contains("silent"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_booked_and_its_upstream_is_cancelled() {
    let (node, gateway) = pair(&[], "").await;
    let (feed, fed) = mpsc::channel(1);
    node.reply(Reply::Fed(Arc::new(Mutex::new(fed))));
    feed.send(chunk("m", "one")).await.unwrap();
    let mut stream = gateway.client.stream("/v1/chat/completions", &ask(json!({}))).await;
    stream.next().await.unwrap();
    drop(stream);
    // The node notices: what it is fed has nowhere to go.
    let fed_until_refused = async {
        while feed.send(chunk("m", "more")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), fed_until_refused)
        .await
        .expect("the upstream was not cancelled");
    until("it is booked", async || gateway.last_request().await["status"] == 499).await;
}

/// Bytes that a node may be ahead of a client: what sockets hold on either side.
const AHEAD: usize = 48 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_slows_its_node_and_gets_everything() {
    let (node, gateway) = pair(&[], "").await;
    let (feed, fed) = mpsc::channel(1);
    node.reply(Reply::Fed(Arc::new(Mutex::new(fed))));
    let text = "x".repeat(64 << 10);
    feed.send(chunk("m", &text)).await.unwrap();
    let mut stream = gateway.client.stream("/v1/chat/completions", &ask(json!({}))).await;
    let mut sent = 1;
    // Until the node itself has to wait.
    while let Ok(taken) =
        tokio::time::timeout(Duration::from_secs(2), feed.send(chunk("m", &format!("{sent} {text}")))).await
    {
        taken.unwrap();
        sent += 1;
        assert!(sent * text.len() < AHEAD, "{sent} events and nobody reads them");
    }
    let rest = crate::support::node::spawn(async move {
        for piece in ending("m") {
            feed.send(piece).await.unwrap();
        }
    });
    let all = stream.rest().await;
    rest.await.unwrap();
    assert!(all.ends_with("data: [DONE]\n\n"));
    // One had its turn when the time was over, and was taken back.
    let places: Vec<usize> = (1..sent).map(|n| all.find(&format!("\"{n} x")).unwrap()).collect();
    assert!(places.is_sorted(), "in their order, and whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_streams_keep_nobody_from_being_served() {
    let (node, gateway) = pair(&[], "").await;
    let mut running = Vec::new();
    for _ in 0..400 {
        let (feed, fed) = mpsc::channel(4);
        node.reply(Reply::Fed(Arc::new(Mutex::new(fed))));
        feed.send(chunk("m", "one")).await.unwrap();
        let mut stream = gateway.client.stream("/v1/chat/completions", &ask(json!({}))).await;
        assert!(stream.next().await.unwrap().contains("one"));
        running.push((feed, stream));
    }
    node.reply(Reply::Pieces([vec![chunk("m", "quick")], ending("m")].concat()));
    let mut quick = gateway.client.stream("/v1/chat/completions", &ask(json!({}))).await;
    assert!(quick.rest().await.contains("quick"));
    for (feed, mut stream) in running {
        for piece in ending("m") {
            feed.send(piece).await.unwrap();
        }
        drop(feed);
        assert!(stream.rest().await.ends_with("data: [DONE]\n\n"));
    }
}
