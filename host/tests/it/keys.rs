//! What a key may have, and what it has used.

use crate::support::gateway::TestGateway;
use crate::support::node::{Reply, TestNode};
use crate::support::processes::start_cortex_with;
use crate::support::{Client, until};
use cortex::accounts::Accounts;
use cortex::metrics::Metrics;
use serde_json::{Value, json};

const MODELS: &str =
    "[[models]]\nid = \"m\"\ncost = { input = 1.0, output = 2.0 }\n[[models]]\nid = \"secret\"\n";

fn key(name: &str, more: &str) -> String {
    let hex = crate::support::hex(&cortex::config::digest(name.as_bytes()));
    format!("[[keys]]\nname = \"{name}\"\nsha256 = \"{hex}\"\n{more}\n")
}

fn answer() -> Value {
    json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}})
}

async fn ask(gateway: &TestGateway, name: &str) -> crate::support::http::Answer {
    let body = json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]});
    let bearer = format!("Bearer {name}");
    let headers = [("authorization", bearer.as_str())];
    gateway.client.call("POST", "/v1/chat/completions", &headers, body.to_string()).await
}

fn usage<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["keys"].as_array().unwrap().iter().find(|key| key["key"] == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_is_a_429_that_says_when_to_come_back() {
    let node = TestNode::with_model().await;
    node.lock().always = Some(Reply::Whole(200, answer()));
    let keys = [
        key("minute", "requests_per_minute = 1"),
        key("window", "caps = [{ window = \"24h\", requests = 1 }]"),
        key("balance", "balance = { usd = 0.000014 }"),
        key("other", "models = [\"org/*\"]"),
        key("free", ""),
    ];
    let gateway = TestGateway::start_with(&[&node], &[], "", MODELS, &keys.concat()).await;
    let check = async |name: &str, status: u16, code: &str, retry: &str| {
        let said = ask(&gateway, name).await;
        assert_eq!(
            (said.status, said.json()["error"]["code"].as_str()),
            (status, Some(code)),
            "{}",
            said.text()
        );
        assert_eq!(said.header("x-should-retry"), retry, "{name}");
        said
    };
    for name in ["minute", "window", "free", "free"] {
        let said = ask(&gateway, name).await;
        assert_eq!(said.status, 200, "{name}: {}", said.text());
    }
    let said = check("minute", 429, "rate_limit_exceeded", "true").await;
    assert!((1..=60).contains(&said.header("retry-after").parse::<u64>().unwrap()));
    let said = check("window", 429, "rate_limit_exceeded", "false").await;
    assert!(said.header("retry-after").parse::<u64>().unwrap() >= 24 * 3600);
    let said = check("balance", 429, "insufficient_quota", "false").await;
    assert_eq!(
        (said.header("retry-after"), said.json()["error"]["type"].as_str()),
        ("", Some("insufficient_quota"))
    );
    check("other", 403, "model_not_allowed", "").await;
    let other = async |path| gateway.client.call("GET", path, &[("x-api-key", "other")], "").await;
    assert_eq!(other("/v1/models").await.json()["data"], json!([]));
    let one = other("/v1/models/secret").await;
    assert_eq!((one.status, one.text().contains("nearest")), (404, false), "{}", one.text());

    let report = gateway.admin.get("/admin/usage").await.json();
    let free = usage(&report, "free");
    let twice = json!({"requests": 2, "prompt_tokens": 14, "cached_prompt_tokens": 0, "completion_tokens": 6,
        "cost_usd": 26e-6});
    assert_eq!((&free["total"], &free["models"]["m"], &free["last_hour"]), (&twice, &twice, &twice));
    assert_eq!(usage(&report, "balance")["total"]["requests"], 0);
    let metrics = gateway.metrics.get("/metrics").await.text();
    for line in [
        "cortex_key_requests_total{key=\"free\"} 2",
        "cortex_key_tokens_total{key=\"free\",kind=\"completion\"} 6",
        "cortex_key_refused_total{key=\"other\",limit=\"model\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is missing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keys_file_is_taken_up_while_requests_run_and_usage_is_kept() {
    let node = TestNode::with_model().await;
    node.lock().always = Some(Reply::Whole(200, answer()));
    let dir = tempfile::tempdir().unwrap();
    let (file, store) = (dir.path().join("keys.toml"), dir.path().join("usage.redb"));
    std::fs::write(&file, key("alice", "")).unwrap();
    let settings = format!("keys_file = {file:?}\nusage_store = {store:?}");
    let gateway = TestGateway::start(&[&node], &[], &settings, MODELS).await;
    assert_eq!((ask(&gateway, "alice").await.status, ask(&gateway, "bob").await.status), (200, 401));
    std::fs::write(&file, key("alice", "") + &key("bob", "")).unwrap();
    until("bob is let in", async || ask(&gateway, "bob").await.status == 200).await;

    // Another one with the same store while the first one runs, as when it takes its place.
    let second = TestGateway::start(&[&node], &[], &settings, MODELS).await;
    for _ in 0..5 {
        assert_eq!((ask(&gateway, "alice").await.status, ask(&second, "alice").await.status), (200, 200));
    }
    let mut gateway = gateway;
    gateway.gateway.shutdown.cancel();
    (&mut gateway.serving).await.unwrap();
    until("all of it is seen", async || {
        let report = second.admin.get("/admin/usage").await.json();
        let alice = usage(&report, "alice")["total"]["requests"].as_u64().unwrap();
        assert!(alice <= 11, "counted twice: {report}");
        alice == 11
    })
    .await;
}

/// What a killed process had written is there, and the file can be opened, whatever it was doing.
#[tokio::test(flavor = "multi_thread")]
async fn usage_outlives_a_kill() {
    let node = TestNode::with_model().await;
    node.lock().always = Some(Reply::Whole(200, answer()));
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("usage.redb");
    let env = [("CORTEX_GATEWAY__USAGE_STORE", store.to_str().unwrap())];
    let neurons = format!("[[neurons]]\nname = \"n\"\nendpoint = \"http://{}\"\n", node.address);
    let kept = || {
        let accounts = Accounts::open(Some(store.clone()), Metrics::new().unwrap().into()).unwrap();
        let report = accounts.report(|_| None);
        report["keys"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|key| key["total"]["requests"].as_u64())
            .sum::<u64>()
    };
    let mut answered = 0;
    for _ in 0..3 {
        let before = kept();
        let (mut cortex, url, _) = start_cortex_with(dir.path(), &neurons, &env);
        let client = Client::new(&url);
        until("the node is up", async || client.get("/health").await.json()["nodes_up"] == 1).await;
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]});
        // Under load until some of it is written: the kill comes while more is on its way.
        until("some of it is written", async || {
            for _ in 0..50 {
                assert_eq!(client.post("/v1/chat/completions", &body).await.status, 200);
                answered += 1;
            }
            kept() > before
        })
        .await;
        cortex.kill();
        let after = kept();
        assert!(before < after && after <= answered, "{before} < {after} <= {answered}");
    }
}
