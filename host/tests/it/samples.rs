//! A dialect that nobody here knows but a file in a directory: samples/rust-dialect, Google's generateContent.

use crate::support::gateway::TestGateway;
use crate::support::node::{Reply, TestNode, chat, chunk, ending};
use serde_json::{Value, json};
use std::path::Path;

async fn start() -> (TestNode, TestGateway) {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &[], "", "").await;
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/samples/rust-dialect.wasm");
    assert!(sample.exists(), "{} is missing: run `cargo xtask setup` first", sample.display());
    // While the gateway runs, as an operator would.
    let part = gateway.policies().join("generate-content.part");
    std::fs::copy(sample, &part).unwrap();
    std::fs::rename(part, gateway.policies().join("generate-content.wasm")).unwrap();
    crate::support::until("the dialect is served", async || {
        gateway.client.post("/v1beta/models/m:generateContent", &json!({})).await.status == 400
    })
    .await;
    (node, gateway)
}

fn ask() -> Value {
    json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "generationConfig": {"maxOutputTokens": 5}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_dialect_is_only_a_file() {
    let (node, gateway) = start().await;
    node.reply(Reply::Whole(200, chat("m", "hello")));
    let said = gateway.client.post("/v1beta/models/m:generateContent", &ask()).await.json();
    assert_eq!(
        said["candidates"][0],
        json!({"content": {"role": "model", "parts": [{"text": "hello"}]}, "index": 0, "finishReason": "STOP"})
    );
    assert_eq!(said["usageMetadata"]["totalTokenCount"], 9);
    assert_eq!(node.lock().asked[0].1["max_tokens"], 5);

    let call =
        json!({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{\"x\":1}"}}]});
    let call = format!("data: {}\n\n", json!({"model": "m", "choices": [{"index": 0, "delta": call}]}));
    node.reply(Reply::Pieces([vec![chunk("m", "hel"), chunk("m", "lo"), call], ending("m")].concat()));
    let text =
        gateway.client.stream("/v1beta/models/m:streamGenerateContent?alt=sse", &ask()).await.rest().await;
    let events: Vec<Value> =
        text.lines().filter_map(|l| serde_json::from_str(l.strip_prefix("data: ")?).ok()).collect();
    let parts: Vec<&Value> =
        events.iter().flat_map(|e| e["candidates"][0]["content"]["parts"].as_array().unwrap()).collect();
    assert_eq!(
        parts,
        [
            &json!({"text": "hel"}),
            &json!({"text": "lo"}),
            &json!({"functionCall": {"id": "c", "name": "f", "args": {"x": 1}}})
        ]
    );
    let last = events.last().unwrap();
    assert_eq!(
        (&last["candidates"][0]["finishReason"], &last["usageMetadata"]["candidatesTokenCount"]),
        (&json!("STOP"), &json!(2))
    );
    let record = gateway.last_request().await;
    assert_eq!(
        (record["dialect"].as_str(), record["completion_tokens"].as_u64()),
        (Some("generate-content"), Some(2))
    );

    node.reply(Reply::Whole(200, json!({"input_tokens": 31})));
    let counted = gateway.client.post("/v1beta/models/m:countTokens", &ask()).await;
    assert_eq!(counted.json(), json!({"totalTokens": 31}));
}

#[tokio::test(flavor = "multi_thread")]
async fn its_refusals_are_its_own_too() {
    let (node, gateway) = start().await;
    let said = gateway.client.post("/v1beta/models/none:generateContent", &ask()).await;
    assert_eq!((said.status, &said.json()["error"]["status"]), (404, &json!("NOT_FOUND")));
    let said = gateway.client.post("/v1beta/models/m:streamGenerateContent", &ask()).await;
    assert!(said.status == 400 && said.text().contains("alt=sse"), "{}", said.text());
    node.reply(Reply::Broken(vec![chunk("m", "hel")]));
    let text =
        gateway.client.stream("/v1beta/models/m:streamGenerateContent?alt=sse", &ask()).await.rest().await;
    assert!(text.contains("hel") && text.contains("\"INTERNAL\""), "{text}");
}
