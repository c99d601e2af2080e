//! One process in the place of another, under load.

use crate::support::node::{Reply, TestNode, chat, spawn};
use crate::support::processes::Process;
use crate::support::{Client, gateway, until};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const CLIENTS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_refuses_no_connection_and_loses_no_request_and_no_count() {
    let node = TestNode::with_model().await;
    node.lock().always = Some(Reply::Whole(200, chat("m", "hi")));
    let dir = tempfile::tempdir().unwrap();
    let sha256 = crate::support::hex(&cortex::config::digest(b"secret"));
    let key = format!("[[keys]]\nname = \"k\"\nsha256 = \"{sha256}\"\n");
    let config = gateway::config(&[&node], "usage_store = \"usage.redb\"\ndrain_delay_secs = 0.3", &key);
    let path = dir.path().join("cortex.toml");
    std::fs::write(&path, config).unwrap();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let start = || {
        let mut process = Process::start_on(&socket, &path);
        let listens = process.address("cortex is listening on http://");
        assert!(url.ends_with(&listens), "{listens}");
        let admin = Client::new(&format!("http://{}", process.address("admin on http://")));
        (process, admin)
    };
    let up = async |admin: &Client| {
        until("its node is up", async || {
            admin.get("/admin/status").await.json()["nodes"][0]["state"] == "up"
        })
        .await;
    };
    let (mut first, admin) = tokio::task::block_in_place(start);
    up(&admin).await;
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut clients = Vec::new();
    for at in 0..CLIENTS {
        let (url, done, stop) = (url.clone(), done.clone(), stop.clone());
        clients.push(spawn(async move {
            let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]}).to_string();
            let mut client = Client::new(&url);
            while !stop.load(Ordering::Relaxed) {
                let headers = [("authorization", "Bearer secret")];
                let said = client.call("POST", "/v1/chat/completions", &headers, body.clone()).await;
                assert_eq!(said.status, 200, "{}", said.text());
                done.fetch_add(1, Ordering::Relaxed);
                // Half of them keep their connection, as SDKs do; the others come anew each time, and could be refused.
                if at % 2 == 0 {
                    client = Client::new(&url);
                }
            }
        }));
    }
    let served = async |more: u64| {
        let goal = done.load(Ordering::Relaxed) + more;
        until("requests are served", async || done.load(Ordering::Relaxed) >= goal).await;
    };
    served(50).await;
    let (mut second, admin) = tokio::task::block_in_place(start);
    up(&admin).await;
    served(50).await;
    assert!(tokio::task::block_in_place(|| first.terminate()), "it ends well");
    served(50).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let total = done.load(Ordering::Relaxed);
    assert_eq!(node.lock().asked.len() as u64, total, "each was asked once");
    // What both have served, by the one that is left.
    let used = async || admin.get("/admin/usage").await.json()["keys"][0]["total"]["requests"].clone();
    until("all of it is counted", async || used().await == total).await;
    assert!(tokio::task::block_in_place(|| second.terminate()));
}
