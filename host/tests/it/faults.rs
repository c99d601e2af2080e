//! What goes wrong while models are loaded.

use crate::support::node::{Reply, TestNode, chat};
use crate::support::processes::{MODEL, start_cortex_with};
use crate::support::{Client, TestGateway, until};
use neuron_protocol::ModelStatus;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn ask(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_is_full_is_left_for_one_with_room() {
    let (full, roomy) = (TestNode::start().await, TestNode::start().await);
    let cause = "writing model.gguf: No space left on device (os error 28)";
    let error = json!({"error": {"kind": "repo_fetch_failed", "model_id": "o/a", "cause": cause}});
    full.lock().load_error = Some((422, error));
    // It is preferred while it fails.
    full.lock().total_mb = 4_000;
    roomy.lock().always = Some(Reply::Whole(200, chat("o/a", "hi")));
    let models = "[[models]]\nid = \"o/a\"\nvram_mb = 300\n";
    let gateway = TestGateway::start(&[&full, &roomy], &[], "", models).await;
    for _ in 0..3 {
        assert_eq!(gateway.client.post("/v1/chat/completions", &ask("o/a")).await.status, 200);
    }
    assert_eq!((full.lock().loads.len(), roomy.lock().loads.len()), (1, 1));
}

/// Until it is answered: connections break, and the address is another one, when the gateway starts anew.
async fn insist(url: &Mutex<String>) -> Value {
    loop {
        let client = Client::new(&url.lock().unwrap().clone());
        let body = ask(MODEL).to_string();
        let sent =
            tokio::time::timeout(Duration::from_secs(30), client.try_post("/v1/chat/completions", body));
        match sent.await.expect("an answer within 30 s") {
            Some(answer) if answer.status == 200 => return answer.json(),
            Some(answer) => assert_eq!(answer.status, 503, "{}", answer.text()),
            None => {}
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_dies_under_load_is_replaced_without_harm() {
    let node = TestNode::start().await;
    node.lock().load_takes = Duration::from_millis(2_500);
    node.lock().always = Some(Reply::Whole(200, chat(MODEL, "hi")));
    let neurons = format!("[[neurons]]\nname = \"only\"\nendpoint = \"http://{}\"\n", node.address);
    let dir = tempfile::tempdir().unwrap();
    let (mut first, address, _) = start_cortex_with(dir.path(), &neurons, &[]);
    let url = Arc::new(Mutex::new(address));
    let clients = futures_util::future::join_all((0..40).map(|_| insist(&url)));
    let dies = async {
        until("the load has begun", async || !node.lock().loads.is_empty()).await;
        first.kill();
        let (second, address, _) = start_cortex_with(dir.path(), &neurons, &[]);
        *url.lock().unwrap() = address;
        second
    };
    let (answers, _second) = tokio::join!(clients, dies);
    assert_eq!(answers.len(), 40);
    let node = node.lock();
    // The second sees that it is being loaded, and waits.
    assert!(node.loads.len() <= 2, "{:?}", node.loads);
    assert!(node.unloads.is_empty());
    let statuses: Vec<ModelStatus> = node.models.iter().map(|m| m.status).collect();
    assert_eq!(statuses, [ModelStatus::Loaded]);
    assert_eq!(node.asked.len(), 40, "each was answered once");
}
