use super::*;
use policy_anthropic::session::Session as Client;
use policy_anthropic::settings::Settings as ClientSettings;
use serde_json::json;

fn messages(body: &Value) -> Result<Value, String> {
    let mut session = Session::new(Settings::default());
    let (path, headers, body) = session.request("/v1/chat/completions", body.to_string().as_bytes())?;
    assert_eq!(path, "/v1/messages");
    assert!(headers.contains(&("anthropic-version".into(), "2023-06-01".into())));
    Ok(serde_json::from_slice(&body).unwrap())
}

/// What an Anthropic client sends is, through the native dialect, what an Anthropic server gets.
#[test]
fn requests_go_round() {
    let sent = json!({
        "model": "m", "max_tokens": 9, "system": "be brief", "temperature": 0.5, "top_p": 0.9, "top_k": 4,
        "stop_sequences": ["END"], "stream": true, "metadata": {"user_id": "u"},
        "output_config": {"effort": "max", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object", "z": 1, "a": 2}, "strict": true}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "see"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                {"type": "image", "source": {"type": "url", "url": "https://e/x.png"}}]},
            {"role": "assistant", "content": [{"type": "text", "text": "ok"},
                {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "b", "name": "f", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "one"}]},
                {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "two"}]},
                {"type": "text", "text": "go on"}]}],
    });
    let mut client = Client::new(0, 1, ClientSettings::default());
    let (_, native) = client.request("/v1/messages", sent.to_string().as_bytes()).unwrap();
    assert_eq!(messages(&serde_json::from_slice(&native).unwrap()).unwrap(), sent);
}

pub(crate) const STREAM: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":4,"cache_creation_input_tokens":0,"cache_read_input_tokens":16,"output_tokens":1}}}

event: ping
data: {"type":"ping"}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"c2ln"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"well 😀"}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: content_block_start
data: {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"toolu_1","name":"f","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"x\":"}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"1}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":2}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":9}}

event: message_stop
data: {"type":"message_stop"}

"#;

/// A stream, through the native dialect and back, says what it said.
#[test]
fn streams_go_round() {
    let mut client = Client::new(0, 1, ClientSettings::default());
    let asked = br#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"x"}]}"#;
    client.request("/v1/messages", asked).unwrap();
    let mut upstream = Session::new(Settings::default());
    let mut back = String::new();
    for event in STREAM.split_inclusive("\n\n") {
        let native = upstream.events(event.as_bytes());
        back.push_str(&String::from_utf8(client.events(&native)).unwrap());
    }
    assert!(upstream.finish().is_empty() && client.finish().is_empty());
    let told = |stream: &str| -> Vec<Value> {
        let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap())
            // What belongs to one server alone: pings, signatures, ids, and counts before the end.
            .filter(|e: &Value| {
                e["type"] != "ping" && e["delta"]["type"] != "signature_delta" && e["type"] != "message_start"
            })
            .map(|mut e: Value| {
                e.as_object_mut().unwrap().remove("usage");
                e
            })
            .collect()
    };
    assert_eq!(told(&back), told(STREAM));
    let usage = back.lines().find(|line| line.contains("message_delta")).map(|_| back.contains(
        r#""usage":{"input_tokens":4,"cache_creation_input_tokens":0,"cache_read_input_tokens":16,"output_tokens":9}"#));
    assert_eq!(usage, Some(true), "{back}");
}

#[test]
fn whole_answers_go_round() {
    let answer = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "well"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"z": 1, "a": 2}}],
        "stop_reason": "tool_use", "stop_sequence": null,
        "usage": {"input_tokens": 4, "cache_creation_input_tokens": 1, "cache_read_input_tokens": 16, "output_tokens": 9}});
    let (status, native) =
        Session::new(Settings::default()).response(200, answer.to_string().as_bytes()).unwrap();
    assert_eq!(status, 200);
    let seen: Value = serde_json::from_slice(&native).unwrap();
    assert_eq!(
        (&seen["usage"]["prompt_tokens"], &seen["choices"][0]["finish_reason"]),
        (&json!(21), &json!("tool_calls"))
    );
    assert_eq!(seen["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], r#"{"z":1,"a":2}"#);
    let back = Client::new(0, 1, ClientSettings::default()).response(200, "r", &native).unwrap();
    let back: Value = serde_json::from_slice(&back).unwrap();
    let mut want = answer["content"].clone();
    want[0]["signature"] = "".into();
    assert_eq!((&back["content"], &back["stop_reason"]), (&want, &answer["stop_reason"]));
}

#[test]
fn what_has_no_counterpart() {
    let got = messages(
        &json!({"model": "m", "temperature": 1.7, "stop": "x", "reasoning_effort": "none", "n": 2,
        "max_completion_tokens": 7, "seed": 5, "parallel_tool_calls": false, "response_format": {"type": "json_object"},
        "messages": [{"role": "developer", "content": "a"}, {"role": "system", "content": [{"type": "text", "text": "b"}]},
            {"role": "user", "content": "c"}, {"role": "system", "content": "d"},
            {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [{"id": "f:0", "function": {"name": "f"}}]},
            {"role": "tool", "tool_call_id": "f:0", "content": ""}]}),
    );
    assert_eq!(
        got.unwrap(),
        json!({"model": "m", "max_tokens": 7, "system": "a\n\nb", "temperature": 1,
        "stop_sequences": ["x"], "thinking": {"type": "disabled"}, "messages": [
            {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_hex_663a30", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_hex_663a30", "content": []}]}]})
    );
}

#[test]
fn bad_requests_name_the_field() {
    let check = |body: Value, part: &str| {
        let said = messages(&body).expect_err(part);
        assert!(said.starts_with(part), "{said:?} is not {part:?}");
    };
    let one = |message: Value| json!({"model": "m", "messages": [message]});
    check(json!({"model": "m"}), "messages: this field is required");
    check(one(json!({"role": "robot", "content": "x"})), "messages.0.role: \"robot\"");
    check(one(json!({"role": "user", "content": [{"type": "input_audio"}]})), "messages.0.content.0.type:");
    check(
        one(json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]})),
        "messages.0.content.0.image_url.url:",
    );
    check(one(json!({"role": "tool", "content": "x"})), "messages.0.tool_call_id:");
    let call = json!({"id": "a", "function": {"name": "f", "arguments": "x"}});
    check(
        one(json!({"role": "assistant", "tool_calls": [call]})),
        "messages.0.tool_calls.0.function.arguments:",
    );
    let mut session = Session::new(Settings::default());
    assert!(session.request("/v1/embeddings", b"{}").unwrap_err().contains("/v1/embeddings"));
}

#[test]
fn tokens_are_counted_there() {
    let mut session = Session::new(Settings::default());
    let body = br#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"x"}],"max_tokens":3,"stream":true}"#;
    let (path, _, body) = session.request("/tokenize", body).unwrap();
    let want = json!({"model": "m", "system": "s", "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]});
    assert_eq!(
        (path.as_str(), serde_json::from_slice::<Value>(&body).unwrap()),
        ("/v1/messages/count_tokens", want)
    );
    assert_eq!(
        session.response(200, br#"{"input_tokens":5}"#).unwrap(),
        (200, br#"{"input_tokens":5}"#.to_vec())
    );
}

#[test]
fn what_breaks_off_has_no_end() {
    let native = |stream: &str| {
        let mut session = Session::new(Settings::default());
        let out = [session.events(stream.as_bytes()), session.finish()].concat();
        String::from_utf8(out).unwrap()
    };
    let upto = |mark: &str| native(&STREAM[..STREAM.find(mark).unwrap()]);
    assert!(!upto("event: message_delta").contains("finish_reason\":\""));
    // All was said but the last word.
    let whole = upto("event: message_stop");
    assert!(whole.contains("tool_calls\"") && whole.ends_with("data: [DONE]\n\n"), "{whole}");
    let error = native(
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n",
    );
    assert!(error.contains("\"status\":503") && error.contains("Overloaded"), "{error}");
    for bad in ["data: {\n\n", "data: 5\n\n", "data: {\"type\":\"content_block_delta\",\"delta\":5}\n\n"] {
        assert!(native(bad).contains("could not be read"), "{bad}");
    }
    assert_eq!(native("event: other\ndata: {\"type\":\"other\"}\n\n"), "");
}

#[test]
fn errors_by_status() {
    let check = |status, body: &str, want: u16, part: &str| {
        let (status, native) = Session::new(Settings::default()).response(status, body.as_bytes()).unwrap();
        let native = String::from_utf8(native).unwrap();
        assert!(status == want && native.contains(part), "{status} {native}");
    };
    let error = |kind: &str| format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"m"}}}}"#);
    check(529, &error("overloaded_error"), 503, "server_error");
    check(401, &error("authentication_error"), 401, "authentication_error");
    check(404, &error("not_found_error"), 404, "model_not_found");
    check(502, "<html>", 502, "the upstream refused");
    assert!(Session::new(Settings::default()).response(200, b"{}").is_err());
}
