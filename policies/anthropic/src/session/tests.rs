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
    check(json!([]), "JSON object");
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

#[test]
fn a_whole_answer() {
    let mut session = Session::new(0, 7, Settings::default());
    let body = json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
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
        session.model = "m".into();
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
