//! The Anthropic dialect through the gateway, with a node that says exactly what the test wants.

use crate::support::node::{chat, chunk, ending};
use crate::support::{Reply, TestGateway, TestNode};
use serde_json::{Value, json};

fn ask(extra: Value) -> Value {
    let mut body = json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_and_counted() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &["anthropic"], "", "").await;
    node.reply(Reply::Whole(200, chat("m", "hello")));
    let answer = gateway.client.post("/v1/messages?beta=true", &ask(json!({"system": "be brief"}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said = answer.json();
    assert_eq!(said["content"], json!([{"type": "text", "text": "hello"}]));
    assert_eq!(
        (said["stop_reason"].as_str(), said["usage"]["output_tokens"].as_u64()),
        (Some("end_turn"), Some(2))
    );
    let native = node.lock().asked[0].clone();
    assert_eq!(native.0, "/v1/chat/completions");
    assert_eq!(native.1["messages"][0], json!({"role": "system", "content": "be brief"}));

    node.reply(Reply::Whole(200, json!({"input_tokens": 31})));
    let answer = gateway.client.post("/v1/messages/count_tokens", &ask(json!({}))).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"input_tokens": 31})));
    assert_eq!(node.lock().asked[1].0, "/tokenize");
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &["anthropic"], "", "").await;
    node.reply(Reply::Pieces([vec![chunk("m", "hel"), chunk("m", "lo")], ending("m")].concat()));
    let got = gateway.client.stream("/v1/messages", &ask(json!({"stream": true}))).await.rest().await;
    let names: Vec<&str> = got.lines().filter_map(|l| l.strip_prefix("event: ")).collect();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    let record = gateway.last_request().await;
    assert_eq!(
        (record["dialect"].as_str(), record["completion_tokens"].as_u64()),
        (Some("anthropic"), Some(2))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_is_translated_too() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &["anthropic"], "", "").await;
    node.reply(Reply::Whole(200, chat("m", "hello")));
    let large = "x".repeat(2 << 20);
    let body = json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": large}]});
    let answer = gateway.client.post("/v1/messages", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(node.lock().asked[0].1["messages"][0]["content"].as_str().unwrap().len(), 2 << 20);
}

/// The account says what the client was told, not what the node said.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_translated_is_booked_as_the_error_that_it_became() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &["anthropic"], "", "").await;
    node.reply(Reply::Whole(200, json!({"no": "completion"})));
    let answer = gateway.client.post("/v1/messages", &ask(json!({}))).await;
    assert_eq!(answer.status, 500, "{}", answer.text());
    let record = gateway.last_request().await;
    assert_eq!(record["status"], 500);
    assert!(record["error"].as_str().unwrap().contains("translated"), "{record}");
}
