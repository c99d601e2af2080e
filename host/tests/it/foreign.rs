//! An upstream that speaks Anthropic Messages, before clients of every dialect.

use crate::support::gateway::TestGateway;
use crate::support::node::{Reply, TestNode, info};
use crate::support::processes::{MODEL, python, start_cortex, start_cortex_with, start_neuron, until_up};
use serde_json::{Value, json};

async fn start(server: &TestNode) -> TestGateway {
    server.lock().models = vec![info("claude-a", 0)];
    let more = format!(
        "[[upstreams]]\nname = \"other\"\nendpoint = \"http://{}\"\ndialect = \"anthropic\"\nkey_env = \"CARGO_PKG_NAME\"\n\
         key_header = \"x-api-key\"\nheaders = {{ \"anthropic-version\" = \"2023-01-01\" }}\nmodels = {{ \"org/ours\" = \"claude-a\" }}\n",
        server.address
    );
    let models = "[[models]]\nid = \"org/ours\"\n[aliases]\nshort = \"org/ours\"\n";
    TestGateway::start_with(&[], &["anthropic", "anthropic-upstream"], "", models, &more).await
}

fn message(text: &str) -> Value {
    json!({"id": "msg_theirs", "type": "message", "role": "assistant", "model": "claude-a-20990101",
        "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": null,
        "usage": {"input_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 0, "output_tokens": 2}})
}

fn events() -> Vec<String> {
    let event = |payload: Value| format!("event: {}\ndata: {payload}\n\n", payload["type"].as_str().unwrap());
    let mut start = message("");
    start["content"] = json!([]);
    vec![
        event(json!({"type": "message_start", "message": start})),
        event(json!({"type": "ping"})),
        event(
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        ),
        event(
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}}),
        ),
        event(json!({"type": "content_block_stop", "index": 0})),
        event(
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": 2}}),
        ),
        event(json!({"type": "message_stop"})),
    ]
}

fn chat(stream: bool) -> Value {
    json!({"model": "short", "stream": stream, "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}]})
}

async fn account(gateway: &TestGateway) -> (Value, Value, Value) {
    let record = gateway.last_request().await;
    (
        record["prompt_tokens"].clone(),
        record["cached_prompt_tokens"].clone(),
        record["completion_tokens"].clone(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_openai_are_served() {
    let server = TestNode::start().await;
    let gateway = start(&server).await;
    server.reply(Reply::Whole(200, message("hi")));
    let said = gateway.client.post("/v1/chat/completions", &chat(false)).await;
    assert_eq!(said.status, 200, "{}", said.text());
    let answer = said.json();
    assert_eq!(
        (&answer["model"], &answer["choices"][0]["message"]["content"]),
        (&json!("short"), &json!("hi"))
    );
    assert_eq!(account(&gateway).await, (json!(7), json!(4), json!(2)));

    server.reply(Reply::Pieces(events()));
    let text = gateway.client.stream("/v1/chat/completions", &chat(true)).await.rest().await;
    assert!(text.contains(r#""content":"hi""#) && text.contains(r#""finish_reason":"stop""#), "{text}");
    assert!(text.ends_with("data: [DONE]\n\n") && text.contains(r#""model":"short""#), "{text}");
    assert!(!text.contains("claude") && !text.contains("usage"), "the client did not ask for it: {text}");
    assert_eq!(account(&gateway).await, (json!(7), json!(4), json!(2)));

    let inner = server.lock();
    let want = json!({"model": "claude-a", "system": "s", "max_tokens": 8192,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]});
    assert_eq!(inner.asked[0], ("/v1/messages".into(), want));
    let headers = &inner.headers[0];
    assert_eq!((&headers["x-api-key"], headers.get("authorization")), (&"cortex".parse().unwrap(), None));
    let versions: Vec<_> = headers.get_all("anthropic-version").iter().collect();
    assert_eq!(versions, ["2023-01-01"], "as the operator says");
}

/// Bytes and all, but for the model's name; and the account is kept nevertheless.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_its_own_dialect_are_left_untouched() {
    let server = TestNode::start().await;
    let gateway = start(&server).await;
    let asked = |stream: bool| {
        json!({"beta_field": [1], "stream": stream, "model": "short", "max_tokens": 5,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}]})
    };
    let headers =
        [("anthropic-beta", "a,b"), ("x-api-key", "the client's own"), ("x-forwarded-for", "1.2.3.4")];
    let send = async |stream: bool| {
        gateway.client.call("POST", "/v1/messages?beta=true", &headers, asked(stream).to_string()).await
    };
    let whole = message("hi");
    server.reply(Reply::Whole(200, whole.clone()));
    assert_eq!(send(false).await.text(), whole.to_string());
    assert_eq!(account(&gateway).await, (json!(7), json!(4), json!(2)));
    server.reply(Reply::Pieces(events()));
    assert_eq!(send(true).await.text(), events().concat());
    assert_eq!(account(&gateway).await, (json!(7), json!(4), json!(2)));
    {
        let inner = server.lock();
        let mut want = asked(true);
        want["model"] = "claude-a".into();
        assert_eq!(inner.asked[1], ("/v1/messages".into(), want));
        assert_eq!(inner.queries[1], "beta=true");
        let got = &inner.headers[1];
        assert_eq!(
            (&got["anthropic-beta"], &got["x-api-key"]),
            (&"a,b".parse().unwrap(), &"cortex".parse().unwrap())
        );
        assert!(!got.contains_key("x-forwarded-for"));
    }
    server.reply(Reply::Whole(200, json!({"input_tokens": 31})));
    let counting = json!({"model": "short", "messages": [{"role": "user", "content": "x"}]});
    let counted = gateway.client.post("/v1/messages/count_tokens", &counting).await;
    assert_eq!(counted.text(), r#"{"input_tokens":31}"#);
    assert_eq!(server.lock().asked[2].0, "/v1/messages/count_tokens");
}

/// What a stream took is booked from its first event on, however it ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_has_used_its_prompt() {
    let server = TestNode::start().await;
    let gateway = start(&server).await;
    for path in ["/v1/chat/completions", "/v1/messages"] {
        let (feed, fed) = tokio::sync::mpsc::channel(8);
        server.reply(Reply::Fed(std::sync::Arc::new(tokio::sync::Mutex::new(fed))));
        for event in &events()[..4] {
            feed.send(event.clone()).await.unwrap();
        }
        let body = json!({"model": "short", "stream": true, "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]});
        let mut stream = gateway.client.stream(path, &body).await;
        let mut told = String::new();
        while !told.contains("hi") {
            told.push_str(&stream.next().await.unwrap());
        }
        assert!(!told.contains("\"usage\":{\"prompt"), "{told}");
        drop(stream);
        crate::support::until("it is booked", async || {
            let record = gateway.last_request().await;
            record["status"] == 499 && record["prompt_tokens"] == 7 && record["cached_prompt_tokens"] == 4
        })
        .await;
        assert_eq!(gateway.last_request().await["completion_tokens"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_errors_are_said_in_the_clients_words() {
    let server = TestNode::start().await;
    let gateway = start(&server).await;
    let error =
        |kind: &str, message: &str| json!({"type": "error", "error": {"type": kind, "message": message}});
    server
        .reply(Reply::Whole(400, error("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum")));
    let said = gateway.client.post("/v1/chat/completions", &chat(false)).await;
    assert_eq!((said.status, &said.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
    server.reply(Reply::Whole(529, error("overloaded_error", "Overloaded")));
    let said = gateway.client.post("/v1/chat/completions", &chat(false)).await;
    assert_eq!((said.status, &said.json()["error"]["message"]), (503, &json!("Overloaded")));
    assert!(!said.header("retry-after").is_empty());
    // What has no words in its dialect is never sent.
    let said = gateway.client.post("/v1/completions", &json!({"model": "short", "prompt": "x"})).await;
    assert!(said.status == 400 && said.text().contains("/v1/completions"), "{}", said.text());
    assert_eq!(server.lock().asked.len(), 2);
    // What breaks off never looks like an end, to clients of either kind.
    for (path, mark) in [("/v1/chat/completions", "data: {\"error\""), ("/v1/messages", "event: error")] {
        server.reply(Reply::Broken(events()[..4].to_vec()));
        let mut body = chat(true);
        body["max_tokens"] = 5.into();
        body["messages"] = json!([{"role": "user", "content": "x"}]);
        let text = gateway.client.stream(path, &body).await.rest().await;
        let last = text.trim_end().rsplit("\n\n").next().unwrap();
        assert!(text.contains("hi") && last.starts_with(mark), "{text}");
    }
    server.reply(Reply::Pieces(vec!["event: message_start\ndata: {\"type\":\"mess\n\n".into()]));
    let said = gateway.client.post("/v1/chat/completions", &chat(true)).await;
    assert!(said.status >= 500, "{}", said.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_not_there_is_named() {
    let server = TestNode::start().await;
    server.lock().models = vec![info("m", 0)];
    let more = format!(
        "[[upstreams]]\nname = \"other\"\nendpoint = \"http://{}\"\ndialect = \"klingon\"\n",
        server.address
    );
    let gateway = TestGateway::start_with(&[], &[], "", "", &more).await;
    let said = gateway
        .client
        .post("/v1/chat/completions", &json!({"model": "m", "messages": [{"role": "user", "content": "x"}]}))
        .await;
    assert!(said.status == 503 && said.text().contains("klingon-upstream"), "{}", said.text());
    let checked = crate::support::processes::cortex(&[
        "check",
        "--config",
        gateway.dir.path().join("cortex.toml").to_str().unwrap(),
    ]);
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(told.contains("upstreams.other.dialect") && told.contains("klingon-upstream"), "{told}");
}

/// Another cortex with a real model, which is asked in Anthropic's words: both SDKs are none the wiser.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_and_the_official_sdks() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (_neuron, address) = start_neuron(dirs[0].path(), "127.0.0.1:0");
    let (_behind, behind, _) = start_cortex(dirs[0].path(), &address);
    until_up(&crate::support::Client::new(&behind)).await;
    let upstream =
        format!("[[upstreams]]\nname = \"other\"\nendpoint = \"{behind}\"\ndialect = \"anthropic\"\n");
    let (_front, url, _) = start_cortex_with(dirs[1].path(), &upstream, &[]);
    until_up(&crate::support::Client::new(&url)).await;
    let client = crate::support::Client::new(&url);
    crate::support::until("its models are known", async || {
        client.get(&format!("/v1/models/{MODEL}")).await.status == 200
    })
    .await;
    let openai = [
        "plain",
        "the_alias_is_what_comes_back",
        "streamed_equals_plain",
        "streamed_usage_on_request",
        "stop",
    ]
    .map(|test| format!("test_openai.OpenAi.test_{test}"));
    let args: Vec<&str> = ["-m", "unittest", "-v", "test_anthropic"]
        .into_iter()
        .chain(openai.iter().map(String::as_str))
        .collect();
    let output = tokio::task::block_in_place(|| python(&args, &url).output()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
