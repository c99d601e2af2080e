use super::*;
use serde_json::json;

fn chat(body: Value) -> Result<Value, String> {
    let mut session = Session::new(0, 1, Settings::default());
    let (path, native) = session.request("/v1/messages", body.to_string().as_bytes())?;
    assert_eq!(path, "/v1/chat/completions");
    Ok(serde_json::from_slice(&native).unwrap())
}

fn messages(messages: Value) -> Value {
    chat(json!({"model": "m", "max_tokens": 5, "messages": messages})).unwrap()["messages"].clone()
}

#[test]
fn text_system_and_parameters() {
    let native = chat(json!({
        "model": "m", "max_tokens": 5, "temperature": 0.5, "top_k": 3, "stop_sequences": ["x"], "stream": true,
        "system": [{"type": "text", "text": "x-anthropic-billing-header: 1"}, {"type": "text", "text": "be brief"}],
        "metadata": {"user_id": "u"}, "unknown": 1, "thinking": {"type": "disabled"},
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {}}]}],
    }));
    let want = json!({
        "model": "m", "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "max_tokens": 5, "temperature": 0.5, "top_k": 3, "stop": ["x"], "stream": true,
        "stream_options": {"include_usage": true}, "user": "u", "reasoning_effort": "none",
    });
    assert_eq!(native.unwrap(), want);
}

/// litellm#23712
#[test]
fn tool_results_come_first_and_keep_their_images() {
    let got = messages(json!([
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
        {"role": "user", "content": [
            {"type": "text", "text": "see"},
            {"type": "tool_result", "tool_use_id": "t1", "is_error": true, "content": [
                {"type": "text", "text": "no"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}]},
        ]},
    ]));
    assert_eq!(
        got,
        json!([
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]},
            {"role": "tool", "tool_call_id": "t1", "content": "Error: no"},
            {"role": "user", "content": [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]},
        ])
    );
}

/// vllm#44602, ollama#18431: hoisted, it would change the beginning that caches know.
#[test]
fn a_late_system_message_keeps_its_place() {
    let got = messages(json!([
        {"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}]));
    assert_eq!(got[1], json!({"role": "system", "content": "b"}));
}

#[test]
fn bad_requests_name_the_field() {
    let hi = json!([{"role": "user", "content": "hi"}]);
    let check = |body: Value, part: &str| match chat(body) {
        Err(message) => assert!(message.contains(part), "{message:?} lacks {part:?}"),
        Ok(native) => panic!("accepted as {native}, expected an error about {part}"),
    };
    check(json!([]), "the request body: invalid length 0, expected an object");
    check(json!({"max_tokens": 1, "messages": hi}), "model:");
    check(json!({"model": 3, "max_tokens": 1, "messages": hi}), "model:");
    check(json!({"model": "m", "max_tokens": 1}), "messages:");
    check(json!({"model": "m", "max_tokens": 1, "messages": []}), "at least one");
    check(json!({"model": "m", "messages": hi}), "max_tokens:");
    check(json!({"model": "m", "max_tokens": 0, "messages": hi}), "max_tokens:");
    check(json!({"model": "m", "max_tokens": 1, "messages": hi, "stream": "yes"}), "stream:");
    check(json!({"model": "m", "max_tokens": 1, "messages": hi, "temperature": "hot"}), "temperature:");
    check(
        json!({"model": "m", "max_tokens": 1, "messages": [{"role": "robot", "content": "x"}]}),
        "messages.0.role",
    );
    check(json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user"}]}), "messages.0.content");
    check(
        json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf"}}]}]}),
        "PDF",
    );
}

/// With the stop text that was met: vllm PR#45807.
#[test]
fn a_whole_answer() {
    let mut session = Session::new(0, 7, Settings::default());
    let body = json!({"model": "m", "max_tokens": 5, "stop_sequences": ["END"], "messages": [{"role": "user", "content": "hi"}]});
    session.request("/v1/messages", body.to_string().as_bytes()).unwrap();
    let native = json!({"choices": [{"finish_reason": "stop", "stop_reason": "END",
        "message": {"role": "assistant", "content": "hello", "reasoning_content": "hm"}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}});
    let got = session.response(200, "r", native.to_string().as_bytes()).unwrap();
    let got: Value = serde_json::from_slice(&got).unwrap();
    assert_eq!(
        got["content"],
        json!([
        {"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "hello"}])
    );
    assert_eq!(
        (got["stop_reason"].as_str(), got["stop_sequence"].as_str()),
        (Some("stop_sequence"), Some("END"))
    );
    assert_eq!(got["usage"]["input_tokens"], 6);
    assert_eq!(got["usage"]["cache_read_input_tokens"], 4);
    assert!(got["id"].as_str().unwrap().starts_with("msg_"));
}

#[test]
fn errors_by_status() {
    let check = |status, native: Value, kind: &str, message: &str| {
        let mut session = Session::new(0, 7, Settings::default());
        session.stream.writer.asked.model = "m".into();
        let got = session.response(status, "req_1", native.to_string().as_bytes()).unwrap();
        let got: Value = serde_json::from_slice(&got).unwrap();
        let want =
            json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"});
        assert_eq!(got, want);
    };
    let native =
        |message: &str, code: &str| json!({"error": {"message": message, "type": "t", "code": code}});
    check(401, native("no key", "invalid_api_key"), "authentication_error", "no key");
    check(404, native("nearest: n", "model_not_found"), "not_found_error", "model: m (nearest: n)");
    check(413, native("large", ""), "request_too_large", "large");
    check(503, native("later", ""), "overloaded_error", "later");
    check(500, json!({"error": "plain"}), "api_error", "plain");
    let long =
        json!({"error": {"message": "x", "code": "context_length_exceeded", "prompt_len": 9, "max": 5}});
    check(400, long, "invalid_request_error", "prompt is too long: 9 tokens > 5 maximum");
}

#[test]
fn models_and_counts() {
    let list = json!({"object": "list", "data": [{"id": "a", "created": 0}, {"id": "b", "created": 86400}]});
    let got = Session::new(2, 1, Settings::default()).response(200, "", list.to_string().as_bytes()).unwrap();
    let got: Value = serde_json::from_slice(&got).unwrap();
    assert_eq!(got["last_id"], "b");
    assert_eq!(got["data"][1]["created_at"], "1970-01-02T00:00:00Z");

    let mut counting = Session::new(1, 1, Settings::default());
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let (path, native) = counting.request("/v1/messages/count_tokens", body.to_string().as_bytes()).unwrap();
    assert_eq!(path, "/tokenize");
    assert!(!String::from_utf8(native).unwrap().contains("max_tokens"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of what may be wrong")]
fn every_field_of_a_wrong_kind_is_named() {
    let check = |extra: Value, part: &str| {
        let mut body =
            json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let said = chat(body).expect_err(part);
        assert!(said.starts_with(part), "{said:?} is not {part:?}");
    };
    let content = |blocks: Value| json!({"messages": [{"role": "user", "content": blocks}]});
    let assistant = |blocks: Value| json!({"messages": [{"role": "assistant", "content": blocks}]});
    check(json!({"messages": {}}), "messages: invalid type: map");
    check(json!({"messages": [5]}), "messages.0: invalid type: integer `5`, expected an object");
    check(json!({"max_tokens": 1e30}), "max_tokens: invalid type: floating point");
    check(json!({"max_tokens": -1}), "max_tokens:");
    check(json!({"top_k": 1.5}), "top_k: invalid type");
    check(json!({"stop_sequences": "x"}), "stop_sequences: invalid type");
    check(json!({"stop_sequences": ["x", 1]}), "stop_sequences.1: invalid type");
    check(json!({"metadata": {"user_id": 5}}), "metadata.user_id: invalid type");
    check(json!({"thinking": {}}), "thinking.type: this field is required");
    check(json!({"output_config": {"effort": 5}}), "output_config.effort: invalid type");
    check(json!({"system": [{"type": "image"}]}), "system.0.text: a string is required");
    check(json!({"tools": [{"input_schema": {}}]}), "tools.0.name: a non-empty string is required");
    check(json!({"tools": [{"name": "f"}]}), "tools.0.input_schema: an object is required");
    check(json!({"tools": [{"name": "f", "input_schema": "x"}]}), "tools.0.input_schema: expected an object");
    let tool = json!([{"name": "f", "input_schema": {}}]);
    check(json!({"tools": tool, "tool_choice": {"type": "tool"}}), "tool_choice.name:");
    check(json!({"tools": tool, "tool_choice": {"type": "some"}}), "tool_choice.type:");
    check(content(json!([{"text": "x"}])), "messages.0.content.0.type: this field is required");
    check(content(json!([{"type": "text"}])), "messages.0.content.0.text:");
    check(content(json!([{"type": "text", "text": null}])), "messages.0.content.0.text:");
    check(content(json!([{"type": "image"}])), "messages.0.content.0.source: an object is required");
    check(content(json!([{"type": "image", "source": "x"}])), "messages.0.content.0.source: invalid type");
    let image = |source: Value| json!([{"type": "image", "source": source}]);
    check(
        content(image(json!({"type": "file", "file_id": "f"}))),
        "messages.0.content.0.source.type: expected base64 or url",
    );
    check(
        content(image(json!({"type": "base64", "media_type": "image/png", "data": "a b"}))),
        "messages.0.content.0.source.data: expected base64",
    );
    check(
        content(image(json!({"type": "base64", "media_type": "text/html", "data": "aa"}))),
        "messages.0.content.0.source.media_type:",
    );
    check(
        content(json!([{"type": "tool_result", "content": "x"}])),
        "messages.0.content.0.tool_use_id: a string",
    );
    check(
        content(json!([{"type": "tool_result", "tool_use_id": "t"}])),
        "messages.0.content.0.tool_use_id: no tool_use before it",
    );
    check(assistant(json!([{"type": "tool_use", "name": "f", "input": {}}])), "messages.0.content.0.id:");
    check(assistant(json!([{"type": "tool_use", "id": "t", "input": {}}])), "messages.0.content.0.name:");
    check(
        assistant(json!([{"type": "tool_use", "id": "t", "name": "f", "input": "x"}])),
        "messages.0.content.0.input: an object",
    );
    let raw = |body: &str| {
        Session::new(0, 1, Settings::default()).request("/v1/messages", body.as_bytes()).unwrap_err()
    };
    assert!(raw(r#"{"model":"m","model":"n"}"#).starts_with("model: this field is given twice"));
    let nested = |deep: usize| {
        format!(
            r#"{{"model":"m","max_tokens":5,"messages":[{{"role":"user","content":{}{}}}]}}"#,
            "[".repeat(deep),
            "]".repeat(deep)
        )
    };
    assert!(raw(&nested(9)).starts_with("messages.0.content.0"));
    assert!(raw(&nested(99_999)).starts_with("messages.0.content.0"));
}

/// The SDKs' own way to send only what is new: refused in the words that make them send everything.
#[test]
fn a_thread_is_refused_so_that_the_client_goes_on_without() {
    let mut session = Session::new(0, 1, Settings::default());
    let body = json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], "thread": {"type": "create"}});
    let why = session.request("/v1/messages", body.to_string().as_bytes()).unwrap_err();
    let native = json!({"error": {"message": why, "type": "invalid_request_error"}});
    let told: Value =
        serde_json::from_slice(&session.response(400, "r", native.to_string().as_bytes()).unwrap()).unwrap();
    assert_eq!(told["error"]["details"]["error_code"], "thread_unsupported_request");
    assert!(
        told["error"]["message"].as_str().unwrap().starts_with("thread: this gateway keeps no conversations")
    );
}

/// Betas come and go, and what they add is skipped.
#[test]
fn what_is_not_known_is_no_error() {
    let got = chat(
        json!({"model": "m", "max_tokens": 5, "container": null, "mcp_servers": [{}], "service_tier": 5,
        "system": null, "tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}], "tool_choice": null, "thinking": null, "metadata": null, "stop_sequences": [],
        "output_config": {"task_budget": {}}, "context_management": [1], "stream": false,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "citations": 7}], "id": 5},
            {"role": "assistant", "content": [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                {"type": "web_search_tool_result", "tool_use_id": "s", "content": {"type": "error"}},
                {"type": "text", "text": "ok"}]}]}),
    );
    assert_eq!(
        got.unwrap(),
        json!({"model": "m", "max_tokens": 5, "messages": [
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok"}]})
    );
}

#[test]
fn ten_thousand_blocks() {
    let blocks: Vec<Value> = (0..10_000).map(|n| json!({"type": "text", "text": n.to_string()})).collect();
    let got = messages(json!([{"role": "user", "content": blocks}]));
    assert!(got[0]["content"].as_str().unwrap().ends_with("9998\n\n9999"));
}

/// Ids that the dialect does not allow go out in another form and come back as they were; so do long names.
#[test]
fn ids_and_names_go_round() {
    let name = "n".repeat(100);
    let mut session = Session::new(0, 1, Settings::default());
    let body = json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"name": name, "input_schema": {}}], "tool_choice": {"type": "tool", "name": name}});
    let (_, native) = session.request("/v1/messages", body.to_string().as_bytes()).unwrap();
    let native: Value = serde_json::from_slice(&native).unwrap();
    let short = native["tools"][0]["function"]["name"].as_str().unwrap();
    assert_eq!((short.len(), &native["tool_choice"]["function"]["name"]), (64, &json!(short)));
    let call = json!({"index": 0, "id": "functions.f:0", "function": {"name": short, "arguments": "{}"}});
    let answer = json!({"choices": [{"message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]});
    let answer = session.response(200, "r", answer.to_string().as_bytes()).unwrap();
    let block = serde_json::from_slice::<Value>(&answer).unwrap()["content"][0].clone();
    assert_eq!(block["name"], name);
    let id = block["id"].as_str().unwrap();
    assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{id}");
    let again = messages(json!([{"role": "assistant", "content": [block]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "x"}]}]));
    assert_eq!(again[0]["tool_calls"][0]["id"], "functions.f:0");
    assert_eq!(again[1]["tool_call_id"], "functions.f:0");
}

#[test]
fn a_model_by_its_alias() {
    let settings = Settings::read(r#"{"aliases":{"claude-*":"org/local"}}"#).unwrap();
    let mut session = Session::new(3, 1, settings.clone());
    assert_eq!(session.request("/v1/models/claude-x", b"").unwrap().0, "/v1/models/org/local");
    let got: Value =
        serde_json::from_slice(&session.response(200, "", br#"{"id":"org/local"}"#).unwrap()).unwrap();
    assert_eq!((&got["id"], &got["display_name"]), (&json!("claude-x"), &json!("org/local")));
    let mut session = Session::new(3, 1, settings);
    assert_eq!(session.request("/v1/models/org/local", b"").unwrap().0, "/v1/models/org/local");
}
