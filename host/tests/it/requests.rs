//! What a client is told when it asks wrongly, or when nobody can answer.

use crate::support::node::{chat, info};
use crate::support::{Answer, Client, Reply, TestGateway, TestNode};
use serde_json::{Value, json};

const MODELS: &str =
    "[[models]]\nid = \"org/llama-8b\"\nvram_mb = 300\n[aliases]\nsmall = \"org/llama-8b\"\n";

fn ask(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}]})
}

async fn anthropic(client: &Client, body: &Value) -> Answer {
    client.post("/v1/messages", body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_models_get_the_nearest_ids_in_the_callers_dialect() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &["anthropic"], "", MODELS).await;
    let answer = gateway.client.post("/v1/chat/completions", &ask("llama-8")).await;
    assert_eq!(answer.status, 404);
    let error = &answer.json()["error"];
    assert_eq!((error["code"].as_str(), error["param"].as_str()), (Some("model_not_found"), Some("model")));
    assert!(error["message"].as_str().unwrap().contains("nearest: org/llama-8b"), "{error}");

    let mut body = ask("llama-8");
    body["max_tokens"] = 5.into();
    let answer = anthropic(&gateway.client, &body).await;
    assert_eq!(answer.status, 404);
    let said = answer.json();
    assert_eq!(
        (said["type"].as_str(), said["error"]["type"].as_str()),
        (Some("error"), Some("not_found_error"))
    );
    assert!(said["error"]["message"].as_str().unwrap().contains("org/llama-8b"), "{said}");
    assert_eq!(said["request_id"], answer.header("request-id"));
    assert!(!answer.header("x-request-id").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_name_the_field() {
    let gateway = TestGateway::start(&[], &["anthropic"], "body_limit_mb = 1", MODELS).await;
    let client = &gateway.client;
    let check = async |path: &str, body: &str, status: u16, part: &str| {
        let answer = client.call("POST", path, &[], body.to_owned()).await;
        let message = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(answer.status, status, "{path}: {message}");
        assert!(message.contains(part), "{path}: {message:?} lacks {part:?}");
    };
    for path in ["/v1/chat/completions", "/v1/messages"] {
        check(path, "{\"model\":", 400, "not valid JSON").await;
        check(path, "{\"messages\": []}", 400, "model:").await;
        check(path, "{\"model\": 5, \"messages\": []}", 400, "model:").await;
        check(path, "{\"model\": \"m\", \"max_tokens\": 1}", 400, "messages:").await;
        check(path, &"x".repeat((1 << 20) + 1), 413, "larger than 1 MiB").await;
    }
    check("/v1/chat/completion", "{}", 404, "did you mean /v1/chat/completions").await;
    let answer = client.get("/v1/chat/completions").await;
    assert_eq!(answer.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_neuron_up_is_a_503_that_says_when_to_come_back() {
    let node = TestNode::with_model().await;
    node.lock().models.push(info("org/llama-8b", 300));
    let off = "node_return_secs = 0";
    let gateway = TestGateway::start(&[&node], &["affinity", "anthropic"], off, MODELS).await;
    let listed = gateway.client.get("/v1/models/org%2Fllama-8b").await.json();
    assert_eq!(
        (listed["loaded"].as_bool(), listed["locations"][0]["node"].as_str()),
        (Some(true), Some("n0"))
    );
    node.kill();
    gateway.until("the node is down", |s| s["nodes"][0]["state"] == "down").await;
    let mut body = ask("small");
    body["max_tokens"] = 5.into();
    let (native, translated) =
        (gateway.client.post("/v1/chat/completions", &body).await, anthropic(&gateway.client, &body).await);
    for answer in [&native, &translated] {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.header("retry-after"), "5");
        assert_eq!(answer.header("x-should-retry"), "true");
    }
    assert_eq!(translated.json()["error"]["type"], "overloaded_error");
    assert_eq!(gateway.client.get("/health").await.json()["nodes_up"], 0);
    let listed = gateway.client.get("/v1/models/org%2Fllama-8b").await.json();
    assert_eq!((listed["loaded"].as_bool(), &listed["locations"]), (Some(false), &json!([])), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_in_either_shape() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &["anthropic"], "", MODELS).await;
    let list = gateway.client.get("/v1/models").await.json();
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["m", "org/llama-8b", "small"]);
    assert_eq!(list["data"][0]["loaded"], true);
    assert_eq!(list["data"][1]["loaded"], false);
    assert_eq!(list["data"][1]["feasible_on"], json!(["n0"]));
    assert_eq!(list["data"][2]["alias_of"], "org/llama-8b");
    let version = [("anthropic-version", "2023-06-01")];
    let list = gateway.client.call("GET", "/v1/models?limit=1000", &version, "").await.json();
    assert_eq!((list["has_more"].as_bool(), list["data"][0]["type"].as_str()), (Some(false), Some("model")));
    let one = gateway.client.get("/v1/models/org%2Fllama-8b").await;
    assert_eq!((one.status, one.json()["id"].as_str()), (200, Some("org/llama-8b")));
    assert_eq!(gateway.client.get("/v1/models/nobody").await.status, 404);
    assert_eq!(gateway.client.call("HEAD", "/", &[], "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_close_the_door_in_the_callers_dialect() {
    let node = TestNode::with_model().await;
    let digest = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"; // of "key"
    let keys = format!("[[keys]]\nname = \"alice\"\nsha256 = \"{digest}\"\n");
    let gateway = TestGateway::start_with(&[&node], &["anthropic"], "", "", &keys).await;
    let check = async |path: &str, headers: &[(&str, &str)], status: u16| {
        node.reply(Reply::Whole(200, chat("m", "hi")));
        let mut body = ask("m");
        body["max_tokens"] = 5.into();
        let answer = gateway.client.call("POST", path, headers, body.to_string()).await;
        assert_eq!(answer.status, status, "{path} {headers:?}: {}", answer.text());
        answer.json()
    };
    let refused = check("/v1/chat/completions", &[], 401).await;
    assert_eq!(refused["error"]["code"], "invalid_api_key");
    let refused = check("/v1/messages", &[("x-api-key", "wrong")], 401).await;
    assert_eq!(refused["error"]["type"], "authentication_error");
    check("/v1/chat/completions", &[("authorization", "Bearer key")], 200).await;
    check("/v1/messages", &[("x-api-key", "key")], 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_answers_pass_with_the_clients_own_model_name() {
    let node = TestNode::with_model().await;
    let gateway =
        TestGateway::start(&[&node], &["affinity"], "", "[[models]]\nid = \"m\"\n[aliases]\nsmall = \"m\"\n")
            .await;
    node.reply(Reply::Whole(200, chat("m", "hi")));
    let answer = gateway.client.post("/v1/chat/completions", &ask("small")).await;
    assert_eq!(answer.json(), chat("small", "hi"));
    assert_eq!(node.lock().asked[0].1["model"], "m");
    let record = gateway.last_request().await;
    assert_eq!((record["prompt_tokens"].as_u64(), record["completion_tokens"].as_u64()), (Some(7), Some(2)));
    assert_eq!((record["node"].as_str(), record["model"].as_str()), (Some("n0"), Some("m")));
    let metrics = gateway.metrics.get("/metrics").await.text();
    let counted = "cortex_requests_total{dialect=\"openai\",model=\"m\",node=\"n0\",status=\"200\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
    assert!(metrics.contains("cortex_policy_calls_total{outcome=\"ok\",policy=\"affinity\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_own_refusal_reaches_the_client_as_it_came() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &["anthropic"], "", "").await;
    let refusal = json!({"error": {"message": "too long", "type": "invalid_request_error",
        "code": "context_length_exceeded", "param": "messages", "prompt_len": 9000, "max": 8192}});
    node.reply(Reply::Whole(400, refusal.clone())).reply(Reply::Whole(400, refusal.clone()));
    let answer = gateway.client.post("/v1/chat/completions", &ask("m")).await;
    assert_eq!((answer.status, answer.json()), (400, refusal));
    let mut body = ask("m");
    body["max_tokens"] = 5.into();
    let said = anthropic(&gateway.client, &body).await.json();
    assert_eq!(said["error"]["message"], "prompt is too long: 9000 tokens > 8192 maximum");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_node_is_left_for_the_next_one() {
    let (bad, good) = (TestNode::with_model().await, TestNode::with_model().await);
    let gateway = TestGateway::start(&[&bad, &good], &[], "", "").await;
    bad.reply(Reply::Whole(503, json!({"error": {"message": "full", "code": "overloaded"}})));
    good.reply(Reply::Whole(200, chat("m", "hi")));
    let answer = gateway.client.post("/v1/chat/completions", &ask("m")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(gateway.last_request().await["attempts"], 2);
}

/// A node that cannot be heard is asked, and one that cannot be understood as well.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_says_over_watch_never_costs_a_request() {
    let known = "event: snapshot\ndata: {}\n\n";
    for (watch, tries) in [
        (None, "once"),
        (Some("event: prefixes\ndata: {}\n\n".to_owned()), "again"),
        (Some(format!("{known}event: model\ndata: [1, 2\n\n")), "again"),
        (Some("no event at all".to_owned()), "again"),
        (Some(format!("{known}event: something-new\ndata: 5\n\n")), "again"),
        (
            Some(format!("{known}event: model\ndata: {{\"id\": \"m\", \"status\": \"unloaded\"}}\n\n")),
            "again",
        ),
    ] {
        let node = TestNode::with_model().await;
        node.lock().watch = watch.clone();
        node.lock().always = Some(Reply::Whole(200, chat("m", "hi")));
        let gateway = TestGateway::start(&[&node], &["affinity"], "", "[[models]]\nid = \"m\"\n").await;
        for _ in 0..20 {
            let answer = gateway.client.post("/v1/chat/completions", &ask("m")).await;
            assert_eq!(answer.status, 200, "{watch:?}: {}", answer.text());
        }
        crate::support::until("it is listened to", async || match tries {
            "once" => node.lock().watched == 1,
            _ => node.lock().watched >= 3,
        })
        .await;
        gateway.until("the node is up", |s| s["nodes"][0]["state"] == "up").await;
        assert_eq!(node.lock().watched == 1, tries == "once", "{watch:?}");
    }
}
