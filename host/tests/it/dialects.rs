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

const DIALECTS: [(&str, &str); 3] =
    [("/v1/messages", "anthropic"), ("/v1/responses", "responses"), ("/v1/chat/completions", "openai")];

/// The same question in each dialect.
fn ask_in(path: &str, stream: bool) -> Value {
    match path {
        "/v1/responses" => json!({"model": "m", "input": "hi", "stream": stream}),
        _ => ask(json!({"stream": stream})),
    }
}

/// Ids are new in every answer.
fn without_ids(said: &str) -> String {
    let mut out = said.to_owned();
    for prefix in ["msg_", "resp_", "rs_", "fc_"] {
        let pieces: Vec<&str> = out.split(prefix).collect();
        let cut = |piece: &&str| piece.trim_start_matches(|c: char| c.is_ascii_hexdigit()).to_owned();
        out = std::iter::once(pieces[0].to_owned())
            .chain(pieces[1..].iter().map(cut))
            .collect::<Vec<_>>()
            .join(prefix);
    }
    out
}

/// plano PR#898, cc-switch PR#1923: events and characters that arrive in two pieces, wherever the cut is.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_stream_is_cut_makes_no_difference() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &["anthropic", "responses"], "", "").await;
    let delta = |delta: Value| {
        format!("data: {}\r\n\r\n", json!({"model": "m", "choices": [{"index": 0, "delta": delta}]}))
    };
    let call = json!([{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{\"é\":\"\\n\"}"}}]);
    let stream = [
        ": x\n\n".into(),
        delta(json!({"reasoning_content": "😀"})),
        delta(json!({"content": "naïve"})),
        delta(json!({"tool_calls": call})),
        ending("m").concat(),
    ]
    .concat()
    .into_bytes();
    for (path, _) in DIALECTS {
        let say = async |cut: usize| {
            node.reply(Reply::Bytes(vec![stream[..cut].to_vec(), stream[cut..].to_vec()]));
            without_ids(&gateway.client.stream(path, &ask_in(path, true)).await.rest().await)
        };
        let whole = say(0).await;
        assert!(whole.contains("naïve") && whole.contains("😀"), "{whole}");
        let cuts: Vec<usize> = (1..stream.len()).collect();
        for some in cuts.chunks(32) {
            // Which of them gets which stream does not matter: all must say the same.
            for said in futures_util::future::join_all(some.iter().map(|&cut| say(cut))).await {
                assert_eq!(said, whole, "{path}, cut within {some:?}");
            }
        }
    }
}

/// Nothing is kept back until more comes.
#[tokio::test(flavor = "multi_thread")]
async fn every_event_leaves_before_the_next_arrives() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &["anthropic", "responses"], "", "").await;
    let call = |arguments: &str| json!({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": arguments}}]});
    for (path, _) in DIALECTS {
        let (feed, fed) = tokio::sync::mpsc::channel(1);
        node.reply(Reply::Fed(std::sync::Arc::new(tokio::sync::Mutex::new(fed))));
        let delta = |delta: Value| {
            format!("data: {}\n\n", json!({"model": "m", "choices": [{"index": 0, "delta": delta}]}))
        };
        feed.send(delta(json!({"reasoning_content": "one"}))).await.unwrap();
        let mut client = gateway.client.stream(path, &ask_in(path, true)).await;
        let mut told = String::new();
        for (next, mark) in [
            (None, "one"),
            (Some(json!({"reasoning_content": "two"})), "two"),
            (Some(json!({"content": "three"})), "three"),
            (Some(json!({"content": "four"})), "four"),
            (Some(call("{\"five\"")), "five"),
            (Some(call(":\"six\"")), "six"),
        ] {
            if let Some(next) = next {
                feed.send(delta(next)).await.unwrap();
            }
            while !told.contains(mark) {
                told.push_str(
                    &client.next().await.unwrap_or_else(|| panic!("{path} ended before {mark}: {told}")),
                );
            }
        }
    }
}

/// What is wrong is said in the words of each, with the field's path.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_each() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &["anthropic", "responses"], "body_limit_mb = 1", "").await;
    let large = "x".repeat(2 << 20);
    for (path, field) in [("/v1/messages", "messages.0.content"), ("/v1/responses", "input.0.content")] {
        let told = |body: &Value| match path {
            "/v1/messages" => (body["type"].clone(), body["error"]["type"].clone()),
            _ => ("error".into(), body["error"]["type"].clone()),
        };
        let wrong = json!([{"role": "user", "content": 5}]);
        let body = json!({"model": "m", "max_tokens": 5, "messages": wrong, "input": wrong});
        let answer = gateway.client.post(path, &body).await;
        assert_eq!(
            (answer.status, told(&answer.json())),
            (400, ("error".into(), "invalid_request_error".into()))
        );
        assert!(answer.text().contains(&format!("{field}: invalid type: integer `5`")), "{}", answer.text());
        let large = json!({"model": "m", "max_tokens": 5, "messages": large, "input": large});
        let answer = gateway.client.post(path, &large).await;
        let kind = if path == "/v1/messages" { "request_too_large" } else { "invalid_request_error" };
        assert_eq!((answer.status, told(&answer.json())), (413, ("error".into(), kind.into())));
        for (bytes, part) in
            [(&b"{"[..], "not valid JSON"), (b"\xff{}", "not valid JSON"), (b"[]", "expected an object")]
        {
            let answer = gateway.client.call("POST", path, &[], bytes).await;
            assert!(answer.status == 400 && answer.text().contains(part), "{}", answer.text());
        }
        assert!(!answer.header("request-id").is_empty() && !answer.header("x-request-id").is_empty());
    }
    assert!(node.lock().asked.is_empty());
}

/// What coding agents send, word for word in shape: the golden requests, and how they look around first.
#[tokio::test(flavor = "multi_thread")]
async fn coding_agents_are_at_home() {
    let node = TestNode::with_model().await;
    node.lock().always = Some(Reply::Pieces([vec![chunk("m", "hello")], ending("m")].concat()));
    let settings = "[policies.settings.anthropic]\naliases = { \"claude-*\" = \"m\" }\n";
    let gateway = TestGateway::start_with(&[&node], &["anthropic", "responses"], "", "", settings).await;
    let key = [
        ("authorization", "Bearer unused"),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "a-2025,b-2026"),
    ];
    assert_eq!(gateway.client.call("HEAD", "/", &key, "").await.status, 200);
    let listed = gateway.client.call("GET", "/v1/models?limit=1000", &key, "").await.json();
    assert_eq!((&listed["data"][0]["type"], &listed["has_more"]), (&json!("model"), &json!(false)));
    let found = gateway.client.call("GET", "/v1/models/claude-sonnet-4-5", &key, "").await.json();
    assert_eq!(found["id"], "claude-sonnet-4-5");
    let policies = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    for (path, policy, end) in [
        ("/v1/messages?beta=true", "anthropic", "event: message_stop"),
        ("/v1/responses", "responses", "event: response.completed"),
    ] {
        let golden = policies.join(policy).join("golden/requests/coding-agent.json");
        let body = std::fs::read(golden).unwrap();
        let answer = gateway.client.call("POST", path, &key, body).await;
        assert!(answer.status == 200 && answer.text().contains(end), "{}", answer.text());
        let asked = node.lock().asked.last().unwrap().1.clone();
        assert_eq!((&asked["model"], &asked["stream_options"]["include_usage"]), (&json!("m"), &json!(true)));
        assert!(!asked.to_string().contains("billing-header"));
    }
    // The model that the client asked for is the one that answers.
    let small = json!({"model": "claude-haiku-4-5", "max_tokens": 1, "stream": true, "messages": [{"role": "user", "content": "quota"}]});
    let text = gateway.client.stream("/v1/messages", &small).await.rest().await;
    assert!(text.contains("\"model\":\"claude-haiku-4-5\""), "{text}");
}

/// An answer of 68 KB, whole, in one event and in many: some dialects say it several times.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_is_no_fault() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &["anthropic", "responses"], "", "").await;
    let long = "a line of code; \n".repeat(4_000);
    let delta = |text: &str| {
        format!("data: {}\n\n", json!({"model": "m", "choices": [{"index": 0, "delta": {"content": text}}]}))
    };
    let (head, tail) = (vec![delta(&long)], ending("m"));
    let pieces: Vec<String> =
        long.as_bytes().chunks(4096).map(|piece| delta(std::str::from_utf8(piece).unwrap())).collect();
    let many = pieces.chunks(64).map(|some| some.concat()).collect::<Vec<_>>();
    for (path, end) in
        [("/v1/messages", "event: message_stop"), ("/v1/responses", "event: response.completed")]
    {
        for stream in [[head.clone(), tail.clone()].concat(), [many.clone(), tail.clone()].concat()] {
            node.reply(Reply::Pieces(stream));
            let text = gateway.client.stream(path, &ask_in(path, true)).await.rest().await;
            assert!(
                text.contains(end) && text.len() > long.len(),
                "{path}: {}",
                &text[text.len().saturating_sub(500)..]
            );
        }
        node.reply(Reply::Whole(200, chat("m", &long)));
        let answer = gateway.client.post(path, &ask_in(path, false)).await;
        assert!(answer.status == 200 && answer.body.len() > long.len(), "{path}: {}", answer.status);
    }
}

/// Several answers to one question are several, each with its role.
#[tokio::test(flavor = "multi_thread")]
async fn answers_beside_the_first_pass_as_they_are() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &[], "", "").await;
    let one = |index: u64, delta: Value| {
        format!(
            "data: {}\n\n",
            json!({"model": "m", "choices": [{"index": index, "delta": delta, "finish_reason": null}]})
        )
    };
    let call = |index: u64| {
        one(
            index,
            json!({"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}),
        )
    };
    let role = json!({"role": "assistant", "content": ""});
    let stream = [vec![one(0, role.clone()), one(1, role), call(0), call(1)], ending("m")].concat();
    node.reply(Reply::Pieces(stream.clone()));
    let body = json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}, "n": 2, "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(gateway.client.stream("/v1/chat/completions", &body).await.rest().await, stream.concat());
}

/// As tools were called before there were tools.
#[tokio::test(flavor = "multi_thread")]
async fn functions_in_the_older_words() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &[], "", "").await;
    let call =
        json!([{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    let mut whole = chat("m", "");
    whole["choices"][0] = json!({"index": 0, "message": {"role": "assistant", "content": null, "tool_calls": call}, "finish_reason": "tool_calls"});
    let body = |stream: bool| {
        json!({"model": "m", "stream": stream, "functions": [{"name": "f"}], "function_call": "auto", "messages": [
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}, {"role": "function", "name": "f", "content": "x"}]})
    };
    node.reply(Reply::Whole(200, whole));
    let said = gateway.client.post("/v1/chat/completions", &body(false)).await.json();
    assert_eq!(said["choices"][0]["message"]["function_call"], json!({"name": "f", "arguments": "{}"}));
    assert_eq!(said["choices"][0]["finish_reason"], "function_call");
    let chunk = format!(
        "data: {}\n\n",
        json!({"model": "m", "choices": [{"index": 0, "delta": {"tool_calls": call}, "finish_reason": null}]})
    );
    node.reply(Reply::Pieces([vec![chunk], ending("m")].concat()));
    let text = gateway.client.stream("/v1/chat/completions", &body(true)).await.rest().await;
    assert!(
        text.contains(r#""function_call":{"name":"f","arguments":"{}"}"#) && !text.contains("tool_calls"),
        "{text}"
    );
    let asked = &node.lock().asked[0].1;
    assert_eq!(
        (&asked["tools"][0]["function"], &asked["tool_choice"]),
        (&json!({"name": "f"}), &json!("auto"))
    );
    assert_eq!(
        (&asked["messages"][1]["role"], &asked["messages"][1]["tool_call_id"]),
        (&json!("tool"), &asked["messages"][0]["tool_calls"][0]["id"])
    );
}

/// Whole and in a stream, for a client whose chunks are not translated: each role, id and name once, and calls in a row.
#[tokio::test(flavor = "multi_thread")]
async fn native_chunks_add_up() {
    let node = TestNode::with_model().await;
    let gateway =
        TestGateway::start(&[&node], &[], "", "[[models]]\nid = \"m\"\n[aliases]\nother = \"m\"\n").await;
    let delta = |delta: Value| {
        format!(
            "data: {}\n\n",
            json!({"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
        )
    };
    let call = |index: u64, arguments: &str| json!({"role": "assistant", "tool_calls": [{"index": index, "id": format!("i{index}"), "function": {"name": "f", "arguments": arguments}}]});
    let chunks = [call(0, ""), call(1, "{"), call(0, "{"), call(1, "}"), call(0, "}")].map(delta);
    node.reply(Reply::Pieces([chunks.to_vec(), ending("m")].concat()));
    let body = json!({"model": "other", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let got = gateway.client.stream("/v1/chat/completions", &body).await.rest().await;
    let data: Vec<Value> =
        got.lines().filter_map(|l| serde_json::from_str(l.strip_prefix("data: ")?).ok()).collect();
    assert!(data.iter().all(|chunk| chunk["model"] == "other"), "{got}");
    let pieces: Vec<(u64, &str)> = data
        .iter()
        .flat_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten())
        .map(|piece| (piece["index"].as_u64().unwrap(), piece["function"]["arguments"].as_str().unwrap()))
        .collect();
    assert_eq!(pieces, [(0, ""), (0, "{"), (0, "}"), (1, "{"), (1, "}")]);
    for once in ["\"role\"", "\"i0\"", "\"i1\""] {
        assert_eq!(got.matches(once).count(), 1, "{once} in {got}");
    }
    assert!(got.ends_with("data: [DONE]\n\n"));
}
