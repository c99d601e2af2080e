//! What becomes of a request, told afterwards: by the command line, in a header, as spans.

use crate::support::gateway::TestGateway;
use crate::support::node::{Reply, TestNode, chat, spawn};
use crate::support::processes::cortex;
use crate::support::until;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn ask() -> String {
    json!({"model": "m", "messages": [{"role": "user", "content": "x"}]}).to_string()
}

async fn two_nodes() -> [TestNode; 2] {
    let nodes = [TestNode::with_model().await, TestNode::with_model().await];
    for node in &nodes {
        node.lock().always = Some(Reply::Whole(200, chat("m", "hi")));
    }
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requests_story_names_facts_decisions_failures_and_waits() {
    let nodes = two_nodes().await;
    // Whoever is asked first fails.
    for node in &nodes {
        node.reply(Reply::Whole(503, json!({"error": {"message": "not just now"}})));
    }
    let gateway = TestGateway::start(&[&nodes[0], &nodes[1]], &["affinity"], "route_header = true", "").await;
    let said = gateway.client.call("POST", "/v1/chat/completions", &[], ask()).await;
    assert_eq!(said.status, 503, "{}", said.text());
    for node in &nodes {
        node.lock().always = Some(Reply::Whole(200, chat("m", "hi")));
    }
    nodes[0].reply(Reply::Whole(503, json!({"error": {"message": "not just now"}})));
    let (mut id, mut turn) = (String::new(), 0);
    until("the first node is asked first", async || {
        turn += 1;
        let other = ask().replace("\"x\"", &format!("\"another conversation: {turn}\""));
        let said = gateway.client.call("POST", "/v1/chat/completions", &[], other).await;
        let route = said.header("x-cortex-route").to_owned();
        assert!(
            route.contains("; by=affinity; wait_ms=") && route.contains("; cold_ms=0; attempts="),
            "{route}"
        );
        id = said.header("x-request-id").to_owned();
        route.starts_with("node=n1;") && route.ends_with("attempts=2")
    })
    .await;
    let args = ["explain", &id, "--url", &gateway.admin.base];
    let output = tokio::task::block_in_place(|| cortex(&args));
    let told = String::from_utf8_lossy(&output.stdout);
    let mut at = 0;
    for part in [
        "openai, model m, no key",
        "arrived",
        "affinity chose n0",
        "n0: loaded; running 0",
        "sent to n0",
        "n0 did not answer: 503 Service Unavailable: not just now",
        "sent to n1",
        "200, 7 tokens in (0 cached), 2 out",
    ] {
        at += told[at..]
            .find(part)
            .unwrap_or_else(|| panic!("{part:?} is not there, or not in its place:\n{told}"));
    }
    let list = gateway.admin.get("/admin/requests").await.json();
    assert!(list.as_array().unwrap().iter().all(|request| request.get("steps").is_none()));
    let output = tokio::task::block_in_place(|| cortex(&["explain", "req_0", "--url", &gateway.admin.base]));
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("no request req_0"));
}

fn streamed(deltas: &[Value]) -> Reply {
    let chunk = |delta: &Value| {
        json!({"id": "c", "object": "chat.completion.chunk", "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
    };
    let mut events: Vec<String> = deltas.iter().map(|delta| format!("data: {}\n\n", chunk(delta))).collect();
    events.push(
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"
            .into(),
    );
    Reply::Pieces(events)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_is_kept_where_it_is_switched_on_and_nowhere_else() {
    let nodes = two_nodes().await;
    let gateway =
        TestGateway::start(&[&nodes[0]], &["affinity", "anthropic"], "keep_prompts = true", "").await;
    let story = async |id: &str| gateway.admin.get(&format!("/admin/requests/{id}")).await.json();
    let said = gateway.client.call("POST", "/v1/chat/completions", &[], ask()).await;
    let whole = story(said.header("x-request-id")).await["transcript"].clone();
    assert_eq!(whole["asked"], json!({"text": ask(), "bytes": ask().len()}));
    assert_eq!(whole["answered"]["text"].as_str().unwrap(), said.text(), "as the client got it");

    nodes[0].reply(streamed(&[
        json!({"role": "assistant", "reasoning_content": "hm"}),
        json!({"content": "Good \u{1b}[31m"}),
        json!({"content": "day"}),
        json!({"tool_calls": [{"index": 0, "id": "1", "function": {"name": "look", "arguments": "{\"at\":"}}]}),
        json!({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
        json!({"refusal": "No more."}),
    ]));
    let asked = json!({"model": "m", "max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": "Grüße"}]});
    let said = gateway.client.call("POST", "/v1/messages", &[], asked.to_string()).await;
    assert_eq!(said.status, 200, "{}", said.text());
    let id = said.header("request-id").to_owned();
    let told = story(&id).await;
    assert_eq!(told["transcript"]["asked"]["text"], asked.to_string(), "in the client's dialect");
    assert_eq!(told["transcript"]["answered"]["text"], "Good \u{1b}[31mday");
    assert_eq!(told["transcript"]["reasoning"]["text"], "hm");
    assert_eq!(told["transcript"]["refusal"]["text"], "No more.");
    let call = &told["transcript"]["calls"]["0"];
    assert_eq!((&call["name"], &call["arguments"]["text"]), (&json!("look"), &json!("{\"at\":1}")));
    let output = tokio::task::block_in_place(|| cortex(&["explain", &id, "--url", &gateway.admin.base]));
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("called look, 8 bytes:\n    {\"at\":1}"), "{shown}");
    assert!(shown.contains("    Good \u{fffd}[31mday\n") && shown.contains("Grüße"), "{shown}");
    let status = gateway.status().await;
    let mut events = gateway.admin.events("/admin/events").await;
    let first = events.next().await.unwrap().1.to_string();
    for (place, text) in [
        ("requests", gateway.admin.get("/admin/requests").await.text()),
        ("status", status.to_string()),
        ("metrics", gateway.metrics.get("/metrics").await.text()),
        ("events", first.clone()),
    ] {
        assert!(!text.contains("transcript") && !text.contains("Grüße"), "{place}: {text}");
    }
    assert!(first.contains(&id), "events tell of the request");
    assert!(status["doubts"].to_string().contains("gateway.keep_prompts"), "{}", status["doubts"]);

    // Switched off, it is forgotten.
    let file = gateway.dir.path().join("cortex.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("keep_prompts = true", "keep_prompts = false")).unwrap();
    gateway
        .until("it is reloaded", |s| s["config"]["last_reload"]["changed"] == "gateway.keep_prompts")
        .await;
    assert!(story(&id).await.get("transcript").is_none());
    let said = gateway.client.call("POST", "/v1/chat/completions", &[], ask()).await;
    assert!(story(said.header("x-request-id")).await.get("transcript").is_none());
}

/// What it waited for is known of a client that left, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_left_has_its_story() {
    let nodes = two_nodes().await;
    let gateway = TestGateway::start(&[&nodes[0]], &["affinity"], "", "").await;
    nodes[0].lock().always = Some(Reply::Never);
    let client = gateway.client.clone();
    let asking = spawn(async move {
        client.post("/v1/chat/completions", &serde_json::from_str(&ask()).unwrap()).await;
    });
    until("it was sent", async || !nodes[0].lock().asked.is_empty()).await;
    asking.abort();
    until("it is booked", async || gateway.last_request().await["status"] == 499).await;
    let record = gateway.last_request().await;
    let story =
        gateway.admin.get(&format!("/admin/requests/{}", record["id"].as_str().unwrap())).await.json();
    let steps: Vec<&str> =
        story["steps"].as_array().unwrap().iter().map(|s| s["step"].as_str().unwrap()).collect();
    assert_eq!((&record["node"], &steps[..]), (&"n0".into(), &["decided", "sent"][..]), "{story:#}");
}

/// Paths and bodies.
type Received = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// What comes to a collector.
async fn collector() -> (String, Received) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let received = Received::default();
    let into = received.clone();
    spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut all = Vec::new();
            loop {
                let text = String::from_utf8_lossy(&all).to_lowercase();
                let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
                let head = text.find("\r\n\r\n").map(|at| at + 4);
                if let (Some(head), Some(length)) = (head, length)
                    && all.len() >= head + length.parse::<usize>().unwrap()
                {
                    let path = text.split(' ').nth(1).unwrap().to_owned();
                    into.lock().unwrap().push((path, all.split_off(head)));
                    break;
                }
                assert!(stream.read_buf(&mut all).await.unwrap() > 0);
            }
            let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, received)
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_reach_a_collector_and_the_trace_goes_on_at_the_node() {
    let nodes = two_nodes().await;
    let (url, received) = collector().await;
    let telemetry = format!("[telemetry]\notlp_endpoint = \"{url}\"\nservice_name = \"front\"\n");
    let mut gateway = TestGateway::start_with(&[&nodes[0]], &[], "", "", &telemetry).await;
    let headers = [("traceparent", PARENT), ("tracestate", "vendor=1")];
    let said = gateway.client.call("POST", "/v1/chat/completions", &headers, ask()).await;
    assert_eq!(said.status, 200);
    let told = nodes[0].lock().headers[0].clone();
    let parent = told["traceparent"].to_str().unwrap().to_owned();
    assert!(parent.starts_with(&PARENT[..36]) && parent.ends_with("-01") && parent != PARENT, "{parent}");
    assert_eq!(told["tracestate"], "vendor=1");
    let record = gateway.last_request().await;
    assert_eq!(record["trace_id"], &PARENT[3..35]);
    // An unsampled one is passed on and not exported.
    let headers = [("traceparent", &*PARENT.replace("-01", "-00"))];
    gateway.client.call("POST", "/v1/chat/completions", &headers, ask()).await;
    gateway.gateway.shutdown.cancel();
    (&mut gateway.serving).await.unwrap();
    let all = received.lock().unwrap();
    assert!(all.iter().all(|(path, _)| path == "/v1/traces"), "{all:?}");
    let bytes: Vec<u8> = all.iter().flat_map(|(_, body)| body.clone()).collect();
    let text = String::from_utf8_lossy(&bytes);
    let span = u64::from_str_radix(&parent[36..52], 16).unwrap().to_be_bytes();
    for part in
        ["front", "POST /v1/chat/completions", "chat m", "gen_ai.usage.input_tokens", "http.route", "n0"]
    {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    assert!(bytes.windows(8).any(|at| at == span), "the span that the node was told");
    assert_eq!(text.matches("POST /v1/chat/completions").count(), 1, "one was sampled");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_a_trace_passes_as_it_came() {
    let nodes = two_nodes().await;
    let gateway = TestGateway::start(&[&nodes[0]], &[], "", "").await;
    gateway.client.call("POST", "/v1/chat/completions", &[("traceparent", PARENT)], ask()).await;
    gateway.client.call("POST", "/v1/chat/completions", &[], ask()).await;
    let headers = nodes[0].lock().headers.clone();
    assert_eq!(headers[0]["traceparent"], PARENT);
    assert!(!headers[1].contains_key("traceparent"));
    let said: Value = gateway.last_request().await;
    assert!(said["trace_id"].is_null());
}
