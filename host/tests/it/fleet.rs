//! The fleet over real sockets: the second block of the nodes' API, operators, many at once.

use crate::support::gateway::config;
use crate::support::node::{chat, chunk, ending, info};
use crate::support::{Reply, TestGateway, TestNode};
use neuron_protocol::feature;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

const MODELS: &str = "[[models]]\nid = \"o/a\"\nvram_mb = 600\n[[models]]\nid = \"o/b\"\nvram_mb = 600\n";

fn ask(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}]})
}

async fn full_node() -> TestNode {
    let node = TestNode::start().await;
    node.lock().model_mb = 600;
    node.lock().models.push(info("o/a", 600));
    node.lock().always = Some(Reply::Whole(200, chat("o/b", "hi")));
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_gateway_uses_is_not_taken_from_it() {
    let node = full_node().await;
    node.lock().features = vec![feature::CONDITIONAL_UNLOAD.into()];
    node.lock().models[0].generation = Some(7);
    let busy = json!({"error": {"kind": "busy", "in_flight": 1, "message": "1 requests are with it"}});
    node.lock().still_needed = Some(busy);
    let gateway = TestGateway::start(&[&node], &["lru"], "", MODELS).await;
    let body = ask("o/b");
    let waiting = gateway.client.post("/v1/chat/completions", &body);
    let ends = async {
        gateway.until("it was refused twice", |_| node.lock().unload_bodies.len() >= 2).await;
        assert!(node.lock().unloads.is_empty());
        node.lock().still_needed = None;
    };
    let (answer, ()) = tokio::join!(waiting, ends);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let asked = node.lock().unload_bodies[0].clone();
    assert_eq!((&asked["mode"], &asked["generation"]), (&json!("if_idle"), &json!(7)));
    assert!(asked["holder"].as_str().unwrap().starts_with("cortex-"));
}

/// An older node knows no conditions: it is asked as it always was.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_node_is_asked_as_ever() {
    let node = full_node().await;
    let gateway = TestGateway::start(&[&node], &["lru"], "", MODELS).await;
    assert_eq!(gateway.client.post("/v1/chat/completions", &ask("o/b")).await.status, 200);
    assert_eq!(node.lock().unload_bodies, [json!({"model_id": "o/a"})]);
    let load = serde_json::to_value(&node.lock().loads[0]).unwrap();
    assert!(load.get("lease").is_none() && load.get("wait").is_none(), "{load}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_can_park_is_asked_to() {
    let node = full_node().await;
    node.lock().features = vec![feature::PARK.into()];
    let gateway = TestGateway::start(&[&node], &["lru", "affinity"], "", MODELS).await;
    assert_eq!(gateway.client.post("/v1/chat/completions", &ask("o/b")).await.status, 200);
    assert_eq!(node.lock().shifts, ["park o/a"]);
    assert_eq!(gateway.client.post("/v1/chat/completions", &ask("o/a")).await.status, 200);
    assert_eq!(node.lock().shifts, ["park o/a", "park o/b", "wake o/a"]);
    assert!(node.lock().unloads.is_empty());
    assert_eq!(node.lock().loads.len(), 1);
}

/// Another gateway's model is no more parked than it would be unloaded, and an operator's unload leaves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_park_has_the_conditions_of_an_unload() {
    let node = full_node().await;
    node.lock().features = vec![feature::PARK.into(), feature::CONDITIONAL_UNLOAD.into()];
    let busy = json!({"error": {"kind": "busy", "in_flight": 1, "message": "1 requests are with it"}});
    node.lock().still_needed = Some(busy);
    let gateway = TestGateway::start(&[&node], &["lru", "affinity"], "", MODELS).await;
    let body = ask("o/b");
    let waiting = gateway.client.post("/v1/chat/completions", &body);
    let ends = async {
        gateway.until("it was refused twice", |_| node.lock().park_bodies.len() >= 2).await;
        assert!(node.lock().shifts.is_empty() && node.lock().unload_bodies.is_empty());
        node.lock().still_needed = None;
    };
    let (answer, ()) = tokio::join!(waiting, ends);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(node.lock().shifts, ["park o/a"]);
    let asked = node.lock().park_bodies[0].clone();
    assert_eq!(asked["mode"], "if_idle", "{asked}");
    assert!(asked["holder"].as_str().unwrap().starts_with("cortex-"), "{asked}");
    // What an operator unloads is kept nowhere.
    let unloaded = gateway.admin.post("/admin/unload", &json!({"model": "o/b"})).await;
    assert_eq!(unloaded.status, 200, "{}", unloaded.text());
    assert_eq!(node.lock().unloads, ["o/b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_share_a_load() {
    let node = TestNode::start().await;
    node.lock().load_takes = Duration::from_millis(1500);
    node.lock().always = Some(Reply::Whole(200, chat("o/a", "hi")));
    let gateway = TestGateway::start(&[&node], &["affinity"], "", MODELS).await;
    let body = ask("o/a");
    let calls = (0..200).map(|_| gateway.client.post("/v1/chat/completions", &body));
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let loads = node.lock().loads.len();
    assert_eq!((loads, node.lock().asked.len()), (1, 200));
    let status = gateway.status().await;
    assert_eq!((&status["loads"], &status["queues"]), (&json!([]), &json!([])));
    let metrics = gateway.metrics.get("/metrics").await.text();
    assert!(
        metrics.contains("cortex_queue_wait_seconds_count{model=\"o/a\",priority=\"normal\"} 200"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_as_long_as_it_may_be() {
    let node = TestNode::start().await;
    node.lock().load_takes = Duration::from_millis(1500);
    node.lock().always = Some(Reply::Whole(200, chat("o/a", "hi")));
    let gateway = TestGateway::start(&[&node], &[], "max_waiting = 3", MODELS).await;
    let body = ask("o/a");
    let calls = (0..8).map(|_| gateway.client.post("/v1/chat/completions", &body));
    let answers = futures_util::future::join_all(calls).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert_eq!(refused.len(), 5);
    for answer in refused {
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (429, Some("queue_full")));
        assert!(!answer.header("retry-after").is_empty());
    }
}

/// Clients that leave while they wait leave nothing behind, and the load goes on.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_vanish_while_they_wait_leave_no_trace() {
    let node = TestNode::start().await;
    node.lock().load_takes = Duration::from_millis(1000);
    node.lock().always = Some(Reply::Whole(200, chat("o/a", "hi")));
    let gateway = TestGateway::start(&[&node], &[], "", MODELS).await;
    let body = ask("o/a");
    let calls = (0..20).map(|_| gateway.client.post("/v1/chat/completions", &body));
    let left = tokio::time::timeout(Duration::from_millis(300), futures_util::future::join_all(calls)).await;
    assert!(left.is_err());
    gateway.until("nobody waits", |s| s["queues"] == json!([])).await;
    gateway.until("it is loaded", |s| s["nodes"][0]["models"][0]["status"] == "loaded").await;
    assert!(node.lock().asked.is_empty());
    assert_eq!(gateway.gateway.fleet.now().nodes[0].node.in_flight(), 0);
    assert_eq!(gateway.client.post("/v1/chat/completions", &body).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_load_unload_drain_and_pin() {
    let (one, two) = (TestNode::start().await, TestNode::start().await);
    for node in [&one, &two] {
        node.lock().model_mb = 600;
        node.lock().always = Some(Reply::Whole(200, chat("o/a", "hi")));
    }
    let gateway =
        TestGateway::start(&[&one, &two], &["affinity", "lru"], "max_wait_secs = 2.0", MODELS).await;
    let post = async |path: &str, body: Value| {
        let answer = gateway.admin.post(path, &body).await;
        (answer.status, answer.json())
    };
    let (status, said) = post("/admin/load", json!({"model": "o/a", "node": "n1"})).await;
    assert_eq!((status, &said["nodes"]), (200, &json!(["n1"])), "{said}");
    assert_eq!((one.lock().loads.len(), two.lock().loads.len()), (0, 1));
    let (status, said) = post("/admin/load", json!({"model": "o/aa"})).await;
    assert!(
        status == 404 && said["error"]["message"].as_str().unwrap().contains("did you mean \"o/a\""),
        "{said}"
    );

    // Drained, it gets nothing, though it has the model.
    let (status, said) = post("/admin/drain", json!({"node": "n1"})).await;
    assert_eq!((status, &said["draining"]), (200, &json!(true)));
    assert_eq!(gateway.status().await["nodes"][1]["draining"], "operator");
    assert_eq!(gateway.client.post("/v1/chat/completions", &ask("o/a")).await.status, 200);
    assert_eq!((one.lock().asked.len(), two.lock().asked.len()), (1, 0));

    // Pinned, it makes no room.
    post("/admin/pin", json!({"model": "o/a"})).await;
    assert_eq!(gateway.status().await["pins"], json!(["o/a"]));
    let refused = gateway.client.post("/v1/chat/completions", &ask("o/b")).await;
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (503, Some("insufficient_vram")));
    post("/admin/pin", json!({"model": "o/a", "on": false})).await;
    assert_eq!(gateway.client.post("/v1/chat/completions", &ask("o/b")).await.status, 200);
    assert_eq!(one.lock().unloads, ["o/a"]);

    post("/admin/drain", json!({"node": "n1", "on": false})).await;
    let (status, said) = post("/admin/unload", json!({"model": "o/a"})).await;
    assert_eq!((status, &said["nodes"]), (200, &json!(["n1"])), "{said}");
    assert_eq!(two.lock().unloads, ["o/a"]);
    assert_eq!(post("/admin/unload", json!({"model": "o/a"})).await.0, 404);
    assert_eq!(post("/admin/drain", json!({"node": "n7"})).await.0, 404);
    assert_eq!(post("/admin/drain", json!({"nod": "n0"})).await.0, 400);
    // A page in the operator's browser is nobody.
    let page = [("origin", "https://example.org"), ("content-type", "text/plain")];
    let answer = gateway.admin.call("POST", "/admin/drain", &page, "{\"node\": \"n0\"}").await;
    assert_eq!(answer.status, 403);
}

/// A model in use is unloaded by an operator when asked to drain it, and not otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_waits_for_what_runs() {
    let node = TestNode::start().await;
    node.lock().models.push(info("o/a", 600));
    let gateway = TestGateway::start(&[&node], &[], "", MODELS).await;
    let (feed, fed) = mpsc::channel(4);
    node.reply(Reply::Fed(Arc::new(Mutex::new(fed))));
    feed.send(chunk("o/a", "first")).await.unwrap();
    let mut body = ask("o/a");
    body["stream"] = true.into();
    let mut stream = gateway.client.stream("/v1/chat/completions", &body).await;
    assert!(stream.next().await.unwrap().contains("first"));
    let asked = json!({"model": "o/a"});
    let refused = gateway.admin.post("/admin/unload", &asked).await;
    assert!(refused.status == 409 && refused.text().contains("in use"), "{}", refused.text());
    let asked = json!({"model": "o/a", "drain": true});
    let ends = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(node.lock().unloads.is_empty());
        for piece in ending("o/a") {
            feed.send(piece).await.unwrap();
        }
        drop(feed);
        stream.rest().await
    };
    let (unloaded, rest) = tokio::join!(gateway.admin.post("/admin/unload", &asked), ends);
    assert_eq!(unloaded.status, 200, "{}", unloaded.text());
    assert!(rest.contains("[DONE]") && !rest.contains("error"), "{rest}");
    assert_eq!(node.lock().unloads, ["o/a"]);
}

/// What runs on a neuron that leaves the configuration goes on to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_neuron_that_is_removed_finishes_what_runs_there() {
    let (stays, goes) = (TestNode::start().await, TestNode::start().await);
    goes.lock().models.push(info("o/a", 600));
    let gateway = TestGateway::start(&[&stays, &goes], &[], "", MODELS).await;
    let (feed, fed) = mpsc::channel(4);
    goes.reply(Reply::Fed(Arc::new(Mutex::new(fed))));
    feed.send(chunk("o/a", "first")).await.unwrap();
    let mut body = ask("o/a");
    body["stream"] = true.into();
    let mut stream = gateway.client.stream("/v1/chat/completions", &body).await;
    assert!(stream.next().await.unwrap().contains("first"));
    std::fs::write(gateway.dir.path().join("cortex.toml"), config(&[&stays], "", "")).unwrap();
    gateway.until("it is gone", |s| s["nodes"].as_array().unwrap().len() == 1).await;
    for piece in ending("o/a") {
        feed.send(piece).await.unwrap();
    }
    drop(feed);
    let rest = stream.rest().await;
    assert!(rest.contains("[DONE]") && !rest.contains("error"), "{rest}");
    assert!(goes.lock().unloads.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_models_that_do_not_fit_are_named() {
    let node = TestNode::start().await;
    let pinned =
        |id: &str| format!("[[models]]\nid = \"{id}\"\nvram_mb = 600\npinned = true\npinned_on = [\"n0\"]\n");
    let gateway = TestGateway::start(&[&node], &[], "", &pinned("o/a")).await;
    assert_eq!(gateway.status().await["doubts"], json!([]));
    let both = pinned("o/a") + &pinned("o/b");
    std::fs::write(gateway.dir.path().join("models.toml"), both).unwrap();
    let status = gateway.until("it is reloaded", |s| s["models"].as_array().unwrap().len() == 2).await;
    let said = "o/a, o/b are pinned on n0 and want 1200 MiB, and it has 1000";
    assert_eq!(status["doubts"], json!([said]));
}

/// A model that no node can hold is listed, and asked for it is refused with the reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_nobody_can_hold_is_listed_and_refused() {
    let node = TestNode::start().await;
    let models = "[[models]]\nid = \"o/huge\"\nvram_mb = 50000\n";
    let gateway = TestGateway::start(&[&node], &["affinity"], "", models).await;
    let listed = gateway.client.get("/v1/models/o%2Fhuge").await.json();
    assert_eq!((&listed["loaded"], &listed["feasible_on"]), (&json!(false), &json!([])));
    let refused = gateway.client.post("/v1/chat/completions", &ask("o/huge")).await;
    assert_eq!(refused.status, 503);
    let words = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(words.contains("n0 has 0 of 1 devices with 50000 MiB"), "{words}");
}
