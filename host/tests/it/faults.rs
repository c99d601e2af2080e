//! What goes wrong around the gateway: disks, processes, files.

use crate::support::node::{Reply, TestNode, chat};
use crate::support::processes::{MODEL, Process, start_cortex_with, start_neuron};
use crate::support::{Client, TestGateway, gateway, until};
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

/// Two real neurons with a real model; one is killed while nothing runs there.
#[tokio::test(flavor = "multi_thread")]
async fn a_neuron_that_is_killed_while_idle_costs_no_request() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut nodes = Vec::new();
    let mut neurons = String::new();
    for dir in &dirs {
        let (neuron, address) = start_neuron(dir.path(), "127.0.0.1:0");
        let load = json!({"model_id": format!("huggingface:{MODEL}"), "quant": "Q4_1"});
        let said = Client::new(&format!("http://{address}")).post("/models/load", &load).await;
        assert_eq!(said.status, 200, "{}", said.text());
        neurons += &format!("[[neurons]]\nname = \"n{}\"\nendpoint = \"http://{address}\"\n", nodes.len());
        nodes.push(neuron);
    }
    let (_cortex, url, admin) = start_cortex_with(dirs[0].path(), &neurons, &[]);
    let (client, admin) = (Client::new(&url), Client::new(&admin));
    let loaded = async || {
        let status = admin.get("/admin/status").await.json();
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().all(|node| node["models"][0]["status"] == "loaded")
    };
    until("both have it", loaded).await;
    let conversation = |turn: usize| json!({"model": MODEL, "max_tokens": 2, "messages": [{"role": "user", "content": format!("{turn}")}]});
    let mut used = std::collections::BTreeSet::new();
    for turn in 0..8 {
        assert_eq!(client.post("/v1/chat/completions", &conversation(turn)).await.status, 200);
        let requests = admin.get("/admin/requests").await.json();
        used.insert(requests.as_array().unwrap().last().unwrap()["node"].to_string());
    }
    assert_eq!(used.len(), 2, "both serve");
    nodes[0].kill();
    // No poll has seen it yet, and pooled connections are still in the gateway's hands.
    for turn in 8..24 {
        let said = client.post("/v1/chat/completions", &conversation(turn)).await;
        assert_eq!(said.status, 200, "{}", said.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_a_file_to_open_serves_again_when_there_is_one() {
    let node = TestNode::with_model().await;
    node.lock().always = Some(Reply::Whole(200, chat("m", "hi")));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cortex.toml");
    std::fs::write(&path, gateway::config(&[&node], "", "")).unwrap();
    let mut cortex = tokio::task::block_in_place(|| Process::start_with_files(64, &path));
    let address = tokio::task::block_in_place(|| cortex.address("cortex is listening on http://"));
    let client = Client::new(&format!("http://{address}"));
    until("it serves", async || client.post("/v1/chat/completions", &ask("m")).await.status == 200).await;
    // Those that are accepted hold a file each, and say nothing.
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    let refused = async {
        let fresh = Client::new(&format!("http://{address}"));
        tokio::time::timeout(Duration::from_millis(300), fresh.post("/v1/chat/completions", &ask("m")))
            .await
            .is_err()
    };
    assert!(refused.await, "there is none left");
    drop(idle);
    let fresh = Client::new(&format!("http://{address}"));
    until("it serves again", async || fresh.post("/v1/chat/completions", &ask("m")).await.status == 200)
        .await;
    assert!(tokio::task::block_in_place(|| cortex.terminate()), "and ends well");
}
