//! Loading and making room: clients only wait.

use crate::support::node::{chat, info};
use crate::support::{Reply, TestGateway, TestNode};
use serde_json::{Value, json};
use std::time::Duration;

const MODELS: &str = "[[models]]\nid = \"o/a\"\nsource = \"hf\"\nquant = \"Q4\"\nvram_mb = 300\n\
                      [[models]]\nid = \"o/b\"\nvram_mb = 500\n[[models]]\nid = \"o/kept\"\npinned = true\nvram_mb = 300\n\
                      [[models]]\nid = \"o/huge\"\nvram_mb = 5000\n";

fn ask(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn one_load_serves_all_who_wait() {
    let node = TestNode::start().await;
    node.lock().load_takes = Duration::from_millis(300);
    let gateway = TestGateway::start(&[&node], &["affinity"], "", MODELS).await;
    for _ in 0..5 {
        node.reply(Reply::Whole(200, chat("hf:o/a", "hi")));
    }
    let body = ask("o/a");
    let calls = (0..5).map(|_| gateway.client.post("/v1/chat/completions", &body));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!((answer.status, answer.json()), (200, chat("o/a", "hi")));
    }
    let loads = node.lock().loads.clone();
    assert_eq!(loads.len(), 1, "{loads:?}");
    assert_eq!((loads[0].model_id.as_str(), loads[0].quant.as_deref()), ("hf:o/a", Some("Q4")));
    assert!(node.lock().asked.iter().all(|(_, body)| body["model"] == "hf:o/a"));
    assert!(gateway.last_request().await["cold_wait_s"].as_f64().unwrap() > 0.2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_does_not_end_the_load() {
    let node = TestNode::start().await;
    node.lock().load_takes = Duration::from_millis(1000);
    let gateway = TestGateway::start(&[&node], &[], "", MODELS).await;
    let body = ask("o/a");
    let leaves = gateway.client.post("/v1/chat/completions", &body);
    assert!(tokio::time::timeout(Duration::from_millis(150), leaves).await.is_err());
    gateway.until("nobody waits any more", |s| s["loads"][0]["waiters"] == 0).await;
    gateway.until("the model is loaded", |s| s["nodes"][0]["models"][0]["status"] == "loaded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_idle_model_makes_room_and_pinned_ones_stay() {
    for policies in [&[][..], &["lru"][..]] {
        let node = TestNode::start().await;
        // The oldest stands behind the one that was just used: its place in the list must not decide.
        node.lock().models.extend([info("o/kept", 300), info("hf:o/a", 300), info("idle", 300)]);
        let gateway = TestGateway::start(&[&node], policies, "", MODELS).await;
        // Use all but `idle`, so that it is the oldest.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        for model in ["o/kept", "o/a"] {
            node.reply(Reply::Whole(200, chat(model, "hi")));
            gateway.client.post("/v1/chat/completions", &ask(model)).await;
        }
        node.lock().model_mb = 400;
        node.reply(Reply::Whole(200, chat("o/b", "hi")));
        let answer = gateway.client.post("/v1/chat/completions", &ask("o/b")).await;
        assert_eq!(answer.status, 200, "{policies:?}: {}", answer.text());
        // 500 are wanted and 100 free: 300 are not enough, so both that may go do.
        assert_eq!(node.lock().unloads, ["idle", "hf:o/a"], "{policies:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_fit_is_refused_without_harm() {
    let node = TestNode::start().await;
    node.lock().models.extend([info("o/kept", 900)]);
    let gateway = TestGateway::start(&[&node], &["lru", "affinity"], "", MODELS).await;
    let answer = gateway.client.post("/v1/chat/completions", &ask("o/huge")).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    let answer = gateway.client.post("/v1/chat/completions", &ask("o/b")).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("insufficient_vram")));
    assert!(node.lock().unloads.is_empty() && node.lock().loads.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_load_tells_every_waiter_why_after_trying_elsewhere() {
    let (one, two) = (TestNode::start().await, TestNode::start().await);
    let error = json!({"error": {"kind": "quant_not_found", "message": "no quant Q4; it has Q8_0"}});
    for node in [&one, &two] {
        node.lock().load_error = Some((422, error.clone()));
    }
    let gateway = TestGateway::start(&[&one, &two], &["affinity"], "", MODELS).await;
    let answer = gateway.client.post("/v1/chat/completions", &ask("o/a")).await;
    assert_eq!(answer.status, 422);
    let said = answer.json();
    assert_eq!(said["error"]["code"], "quant_not_found");
    assert!(said["error"]["message"].as_str().unwrap().contains("it has Q8_0"), "{said}");
    assert_eq!((one.lock().loads.len(), two.lock().loads.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_unloaded_behind_the_gateways_back_is_loaded_again() {
    let node = TestNode::start().await;
    node.lock().models.push(info("hf:o/a", 300));
    let gateway = TestGateway::start(&[&node], &["affinity"], "poll_interval_secs = 60.0", MODELS).await;
    node.lock().models.clear();
    let gone = json!({"error": {"message": "not loaded", "code": "model_not_found"}});
    node.reply(Reply::Whole(404, gone)).reply(Reply::Whole(200, chat("hf:o/a", "back")));
    let answer = gateway.client.post("/v1/chat/completions", &ask("o/a")).await;
    assert_eq!((answer.status, answer.json()), (200, chat("o/a", "back")));
    assert_eq!(node.lock().loads.len(), 1);
}

/// Two models at once on a node with too little for either and one model that may go: it goes once, and
/// makes room for both.
#[tokio::test(flavor = "multi_thread")]
async fn loads_on_one_node_take_turns() {
    let models = "[[models]]\nid = \"o/a\"\nvram_mb = 300\n[[models]]\nid = \"o/b\"\nvram_mb = 300\n";
    let node = TestNode::start().await;
    node.lock().models.push(info("idle", 800));
    node.lock().load_takes = Duration::from_millis(200);
    let gateway = TestGateway::start(&[&node], &["lru"], "", models).await;
    node.reply(Reply::Whole(200, chat("x", "hi"))).reply(Reply::Whole(200, chat("x", "hi")));
    let (a, b) = (ask("o/a"), ask("o/b"));
    let (a, b) = tokio::join!(
        gateway.client.post("/v1/chat/completions", &a),
        gateway.client.post("/v1/chat/completions", &b)
    );
    assert_eq!((a.status, b.status), (200, 200), "{} {}", a.text(), b.text());
    assert_eq!(node.lock().unloads, ["idle"]);
    assert_eq!(node.lock().loads.len(), 2);
}

/// Room for one of two: the second waits until the first has served those who waited for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_not_evicted_before_its_waiters_have_it() {
    let models = "[[models]]\nid = \"o/a\"\nvram_mb = 600\n[[models]]\nid = \"o/b\"\nvram_mb = 600\n";
    let node = TestNode::start().await;
    node.lock().model_mb = 600;
    node.lock().load_takes = Duration::from_millis(1000);
    let gateway = TestGateway::start(&[&node], &["lru"], "", models).await;
    let (feed, fed) = tokio::sync::mpsc::channel(4);
    node.reply(Reply::Fed(std::sync::Arc::new(tokio::sync::Mutex::new(fed))));
    node.reply(Reply::Whole(200, chat("o/b", "hi")));
    let (mut first, second) = (ask("o/a"), ask("o/b"));
    first["stream"] = true.into();
    let later = async {
        gateway.until("the first load runs", |s| s["loads"][0]["model"] == "o/a").await;
        gateway.client.post("/v1/chat/completions", &second).await
    };
    feed.send(crate::support::node::chunk("o/a", "mine")).await.unwrap();
    let streaming = async {
        let mut stream = gateway.client.stream("/v1/chat/completions", &first).await;
        let said = stream.next().await.unwrap();
        let waits =
            |s: &Value| s["loads"][0]["model"] == "o/b" && s["loads"][0]["doing"] == "waiting for room";
        gateway.until("the second waits for room", waits).await;
        assert!(node.lock().unloads.is_empty(), "{:?}", node.lock().unloads);
        drop(feed);
        stream.rest().await;
        said
    };
    let (said, later) = tokio::join!(streaming, later);
    assert!(said.contains("mine"), "{said}");
    assert_eq!(later.status, 200, "{}", later.text());
    assert_eq!(node.lock().unloads, ["o/a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_the_catalogue_is_never_said_not_to_exist() {
    let node = TestNode::start().await;
    let gateway = TestGateway::start(&[&node], &[], "", MODELS).await;
    let gone = || Reply::Whole(404, json!({"error": {"message": "not loaded", "code": "model_not_found"}}));
    node.reply(gone()).reply(gone());
    let answer = gateway.client.post("/v1/chat/completions", &ask("o/a")).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("model_loading")));
    assert!(!answer.header("retry-after").is_empty());

    // Counting needs the files alone; a node that has not even those gets them with a load.
    let node = TestNode::start().await;
    let gateway = TestGateway::start(&[&node], &[], "", MODELS).await;
    node.reply(gone()).reply(Reply::Whole(200, json!({"input_tokens": 3})));
    let answer = gateway.client.post("/tokenize", &ask("o/a")).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"input_tokens": 3})));
    assert_eq!(node.lock().loads.len(), 1);
}
