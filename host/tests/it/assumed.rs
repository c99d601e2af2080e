//! A node holds what it was just given, before it has said so.

use crate::support::node::{Reply, TestNode, chat, chunk, ending};
use crate::support::{TestGateway, until};
use neuron_protocol::Health;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A node that is listened to and says nothing of its caches.
async fn listened_to() -> TestNode {
    let node = TestNode::with_model().await;
    let snapshot = json!({"health": Health::default(), "models": node.lock().models});
    node.lock().watch = Some(format!("event: snapshot\ndata: {snapshot}\n\n"));
    node.lock().watch_stays = true;
    node.lock().always = Some(Reply::Whole(200, chat("m", "hi")));
    node
}

fn asked(node: &TestNode) -> usize {
    node.lock().asked.len()
}

fn of_user(user: &str, stream: bool) -> Value {
    let rules = "The captain's word is law on board, and nobody speaks to the helmsman. ".repeat(40);
    let messages = json!([{"role": "system", "content": rules}, {"role": "user", "content": user}]);
    json!({"model": "m", "user": user, "stream": stream, "messages": messages})
}

#[tokio::test(flavor = "multi_thread")]
async fn others_with_the_same_beginning_follow_while_it_is_worked_on() {
    let nodes = [listened_to().await, listened_to().await];
    let gateway = TestGateway::start(&[&nodes[0], &nodes[1]], &["affinity"], "", "").await;
    until("both are listened to", async || nodes.iter().all(|node| node.lock().watched == 1)).await;
    // A hash of the user's name decides where nothing is cached: some of thirty go to each.
    let ask_thirty = async || {
        let before = nodes.each_ref().map(asked);
        for user in 0..30 {
            let body = of_user(&format!("user {user}"), false);
            assert_eq!(gateway.client.post("/v1/chat/completions", &body).await.status, 200);
        }
        [asked(&nodes[0]) - before[0], asked(&nodes[1]) - before[1]]
    };
    let (feed, fed) = mpsc::channel(8);
    let fed = Reply::Fed(Arc::new(tokio::sync::Mutex::new(fed)));
    nodes.iter().for_each(|node| node.lock().always = Some(fed.clone()));
    feed.send(chunk("m", "Aye")).await.unwrap();
    let mut first = gateway.client.stream("/v1/chat/completions", &of_user("first", true)).await;
    let home = usize::from(asked(&nodes[1]) == 1);
    assert_eq!(asked(&nodes[0]) + asked(&nodes[1]), 1);
    nodes.iter().for_each(|node| node.lock().always = Some(Reply::Whole(200, chat("m", "hi"))));

    let followed = ask_thirty().await;
    assert_eq!(followed[home], 30, "{followed:?}");
    for piece in ending("m") {
        feed.send(piece).await.unwrap();
    }
    drop(feed);
    first.rest().await;
    until("nothing is assumed of what nobody confirmed", async || {
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        let answer = gateway.client.post("/v1/chat/completions", &of_user("last", false)).await;
        let predicted = gateway.last_request().await["predicted_prompt_tokens"].clone();
        answer.status == 200 && predicted == 0
    })
    .await;
}
