use super::*;
use crate::settings::Settings;

fn asked(body: &Value) -> Result<(Session, Value), String> {
    let mut session = Session::new(0, 1, Settings::default());
    let (path, native) = session.request(body.to_string().as_bytes())?;
    assert_eq!(path, "/v1/chat/completions");
    Ok((session, serde_json::from_slice(&native).unwrap()))
}

#[track_caller]
fn refused(extra: &Value, part: &str) {
    let mut body = json!({"model": "m", "input": "hi"});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    match asked(&body) {
        Err(message) => assert!(message.contains(part), "{message:?} lacks {part:?}"),
        Ok((_, native)) => panic!("accepted as {native}, expected an error about {part}"),
    }
}

#[test]
fn what_needs_a_store_says_that_there_is_none() {
    refused(&json!({"previous_response_id": "resp_1"}), "previous_response_id: this gateway stores nothing");
    refused(&json!({"conversation": {"id": "c"}}), "conversation: this gateway stores nothing");
    refused(&json!({"prompt": {"id": "p"}}), "prompt: this gateway stores nothing");
    refused(&json!({"background": true}), "background: this gateway stores nothing");
    refused(&json!({"input": [{"type": "item_reference", "id": "rs_1"}]}), "input.0.type: nothing is stored");
    let nulls = json!({"model": "m", "input": "hi", "previous_response_id": null, "store": true, "conversation": null,
        "instructions": null, "tools": null, "tool_choice": null, "reasoning": null, "text": null, "metadata": null,
        "include": null, "max_output_tokens": null, "stream": null, "user": null, "background": null, "prompt": null});
    assert_eq!(
        asked(&nulls).unwrap().1,
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of what may be wrong")]
fn bad_requests_name_the_field() {
    refused(&json!({"model": 5}), "model: invalid type: integer `5`, expected a string");
    refused(&json!({"model": ""}), "model: a non-empty string");
    refused(&json!({"input": null}), "input: invalid type: null, expected a string or a list");
    refused(&json!({"input": []}), "input: at least one item");
    refused(&json!({"input": [{"role": "robot", "content": "x"}]}), "input.0.role: \"robot\"");
    refused(&json!({"input": [{"role": "user"}]}), "input.0.content:");
    refused(
        &json!({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}),
        "input.0.content.0.text:",
    );
    refused(
        &json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": 5}]}]}),
        "input.0.content.0.text: invalid",
    );
    refused(
        &json!({"input": [{"role": "user", "content": [{"type": "input_video"}]}]}),
        "input.0.content.0.type: \"input_video\"",
    );
    refused(
        &json!({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}),
        "input.0.content.0.image_url:",
    );
    refused(
        &json!({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}),
        "input.0.content.0: files",
    );
    refused(
        &json!({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}),
        "input.0.arguments:",
    );
    refused(
        &json!({"input": [{"type": "function_call", "arguments": "{}", "name": "f"}]}),
        "input.0.call_id:",
    );
    refused(&json!({"input": [{"type": "custom_tool_call", "call_id": "c", "name": "f"}]}), "input.0.input:");
    refused(
        &json!({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}),
        "input.0.call_id: no call before it",
    );
    refused(&json!({"tools": {}}), "tools: invalid type: map");
    refused(&json!({"tools": [{"type": "function"}]}), "tools.0.name:");
    refused(&json!({"tools": [{"type": "function", "name": "f", "parameters": 5}]}), "tools.0.parameters:");
    refused(
        &json!({"tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "f"}]}),
        "tools.1.name: two tools",
    );
    refused(
        &json!({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}]}),
        "tools.0.tools.0.name:",
    );
    refused(
        &json!({"tools": [{"type": "function", "name": "f"}], "tool_choice": "any"}),
        "tool_choice: expected",
    );
    refused(
        &json!({"tools": [{"type": "function", "name": "f"}], "tool_choice": 5}),
        "tool_choice: invalid type",
    );
    refused(&json!({"max_output_tokens": 0}), "max_output_tokens:");
    refused(&json!({"max_output_tokens": -1}), "max_output_tokens:");
    refused(&json!({"stream": "yes"}), "stream:");
    refused(&json!({"reasoning": "high"}), "reasoning: invalid type");
    refused(&json!({"text": {"format": {"type": "xml"}}}), "text.format.type: \"xml\"");
    refused(&json!({"text": {"format": {"type": "json_schema"}}}), "text.format.schema:");
    refused(&json!({"text": {"format": {}}}), "text.format.type: this field is required");
    let raw = |body: &[u8]| Session::new(0, 1, Settings::default()).request(body).unwrap_err();
    assert!(raw(b"").contains("not valid JSON"));
    assert!(raw(b"{\"model\":\"\xff\",\"input\":\"x\"}").contains("not valid JSON"));
    assert!(raw(br#"{"model":"m","model":"n","input":"x"}"#).contains("model: this field is given twice"));
    let deep = format!(
        r#"{{"model":"m","input":[{{"role":"user","content":{}{}}}]}}"#,
        "[".repeat(9999),
        "]".repeat(9999)
    );
    assert!(raw(deep.as_bytes()).contains("input.0.content"), "{}", raw(deep.as_bytes()));
}

fn tools() -> Value {
    json!({"model": "m", "input": "hi", "stream": true, "include": ["reasoning.encrypted_content"], "tools": [
        {"type": "namespace", "name": "mcp__files__", "tools": [{"type": "function", "name": "find"}]},
        {"type": "custom", "name": "patch"}]})
}

/// codex#36942: namespaced tools come back as what they are; so do custom ones.
#[test]
fn namespaced_and_custom_tools_come_back_as_they_were_given() {
    let (mut session, native) = asked(&tools()).unwrap();
    let names: Vec<&Value> =
        native["tools"].as_array().unwrap().iter().map(|t| &t["function"]["name"]).collect();
    assert_eq!(names, ["mcp__files__find", "patch"]);
    let calls = json!([
        {"index": 0, "id": "a", "function": {"name": "mcp__files__find", "arguments": "{\"x\":1}"}},
        {"index": 1, "id": "b", "function": {"name": "patch", "arguments": "{\"input\":\"*** \\\"x\\\"\\n\"}"}}]);
    let want = json!([
        {"type": "function_call", "status": "completed", "call_id": "a", "name": "find", "namespace": "mcp__files__", "arguments": "{\"x\":1}"},
        {"type": "custom_tool_call", "status": "completed", "call_id": "b", "name": "patch", "input": "*** \"x\"\n"}]);
    let without_ids = |mut items: Value| {
        items.as_array_mut().unwrap().iter_mut().for_each(|i| drop(i.as_object_mut().unwrap().remove("id")));
        items
    };
    let whole = json!({"choices": [{"message": {"tool_calls": calls}, "finish_reason": "tool_calls"}]});
    let whole = session.response(200, whole.to_string().as_bytes()).unwrap();
    let whole: Value = serde_json::from_slice(&whole).unwrap();
    assert_eq!(without_ids(whole["output"].clone()), want);
    assert_eq!(whole["tools"], tools()["tools"], "as the client gave them");

    let events = said(
        &mut session,
        &[
            json!({"choices": [{"delta": {"tool_calls": calls}}]}),
            json!({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}),
        ],
    );
    let last = events.last().unwrap();
    assert_eq!(without_ids(last["response"]["output"].clone()), want);
    let input: String = events
        .iter()
        .filter(|e| e["type"] == "response.custom_tool_call_input.delta")
        .map(|e| e["delta"].as_str().unwrap())
        .collect();
    assert_eq!(input, "*** \"x\"\n");
    assert!(
        events.iter().any(|e| e["type"] == "response.custom_tool_call_input.done" && e["input"] == input)
    );
}

fn said(session: &mut Session, chunks: &[Value]) -> Vec<Value> {
    let sse: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    let out = [session.events(sse.as_bytes()), session.finish()].concat();
    let text = String::from_utf8(out).unwrap();
    let events = text.split_terminator("\n\n").map(|event| {
        let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let payload: Value = serde_json::from_str(data).unwrap();
        assert_eq!(payload["type"], name);
        payload
    });
    let events: Vec<Value> = events.collect();
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], at);
    }
    events
}

/// A request on several lines is echoed on one: it is part of an event.
#[test]
fn what_is_echoed_is_one_line() {
    let body = serde_json::to_string_pretty(&tools()).unwrap().replace('\n', "\r\n");
    let mut session = Session::new(0, 1, Settings::default());
    session.request(body.as_bytes()).unwrap();
    let events =
        said(&mut session, &[json!({"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]})]);
    assert_eq!(events[0]["response"]["tools"], tools()["tools"]);
}

/// Items that other servers made, in shapes of their own, are left out.
#[test]
fn what_others_made_is_left_out() {
    let body = json!({"model": "m", "input": [{"role": "user", "content": "x"},
        {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "", "outcome": {}}]},
        {"type": "mcp_list_tools", "tools": [{"name": "f", "input_schema": {}}]},
        {"type": "web_search_call", "action": {"type": "search"}}]});
    assert_eq!(asked(&body).unwrap().1["messages"], json!([{"role": "user", "content": "x"}]));
}

/// Results have to stand right behind the calls, wherever the assistant's words came.
#[test]
fn words_between_calls_and_results_are_the_callers() {
    let body = json!({"model": "m", "input": [{"role": "assistant", "content": "a"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}, {"role": "assistant", "content": "b"},
        {"type": "function_call_output", "call_id": "c", "output": "x"}]});
    let (_, native) = asked(&body).unwrap();
    let roles: Vec<&Value> = native["messages"].as_array().unwrap().iter().map(|m| &m["role"]).collect();
    assert_eq!(roles, ["assistant", "tool"]);
    let first = &native["messages"][0];
    assert_eq!((&first["content"], &first["reasoning_content"]), (&json!("a\n\nb"), &json!("hm")));
}

/// A call that the answer's length cut short is no call to be made.
#[test]
fn a_call_that_was_cut_says_so() {
    let calls = json!([{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{\"path\":\"a"}},
        {"index": 1, "id": "b", "function": {"name": "patch", "arguments": "{\"input\":\"abc"}}]);
    let check = |calls: Value, item: &Value| {
        let (session, _) = asked(&tools()).unwrap();
        let whole = json!({"choices": [{"message": {"tool_calls": calls}, "finish_reason": "length"}]});
        let whole: Value =
            serde_json::from_slice(&session.response(200, whole.to_string().as_bytes()).unwrap()).unwrap();
        let (mut session, _) = asked(&tools()).unwrap();
        let events = said(
            &mut session,
            &[json!({"choices": [{"delta": {"tool_calls": calls}, "finish_reason": "length"}]})],
        );
        for output in [&whole["output"], &events.last().unwrap()["response"]["output"]] {
            let mut last = output[0].clone();
            last.as_object_mut().unwrap().remove("id");
            assert_eq!(&last, item);
        }
    };
    check(
        json!([calls[0]]),
        &json!({"type": "function_call", "status": "incomplete", "call_id": "a", "name": "f", "arguments": "{\"path\":\"a"}),
    );
    check(
        json!([calls[1]]),
        &json!({"type": "custom_tool_call", "status": "incomplete", "call_id": "b", "name": "patch", "input": "abc"}),
    );
}

/// What is thought is kept by clients that store nothing, and comes back with the next turn.
#[test]
fn thoughts_go_round() {
    let (mut session, _) = asked(&tools()).unwrap();
    let events = said(
        &mut session,
        &[json!({"choices": [{"delta": {"reasoning_content": "hm"}, "finish_reason": "stop"}]})],
    );
    let kept = events.last().unwrap()["response"]["output"][0].clone();
    assert_eq!(kept["encrypted_content"], "plain:hm");
    let again = |item: &Value| {
        let (_, native) =
            asked(&json!({"model": "m", "input": [item, {"role": "assistant", "content": "x"}]})).unwrap();
        assert_eq!(native["messages"][0]["reasoning_content"], "hm");
    };
    again(&kept);
    let mut only_kept = kept;
    only_kept["content"] = Value::Null;
    again(&only_kept);
}

#[test]
fn every_failure_is_an_event_that_clients_act_on() {
    let check = |chunks: &[Value], code: &str| {
        let (mut session, _) = asked(&tools()).unwrap();
        let events = said(&mut session, chunks);
        let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
        assert_eq!(kinds[..2], ["response.created", "response.in_progress"]);
        let last = events.last().unwrap();
        assert_eq!(
            (last["type"].as_str(), last["response"]["error"]["code"].as_str()),
            (Some("response.failed"), Some(code))
        );
        let count = |kind: &str| kinds.iter().filter(|k| **k == kind).count();
        assert_eq!(count("response.output_item.added"), count("response.output_item.done"));
    };
    check(&[], "server_error");
    check(&[json!({"choices": [{"delta": {"content": "x"}}]})], "server_error");
    check(&[json!({"error": {"message": "m", "status": 429}})], "rate_limit_exceeded");
    check(&[json!({"error": {"message": "m", "status": 503}})], "server_is_overloaded");
    check(
        &[json!({"error": {"message": "m", "code": "context_length_exceeded"}})],
        "context_length_exceeded",
    );
    check(
        &[json!({"error": {"message": "m", "code": "insufficient_quota", "status": 429}})],
        "insufficient_quota",
    );
    check(&[json!({"error": {"message": "m", "status": 400}})], "invalid_prompt");
}

#[test]
fn tokens_are_counted_of_the_same_prompt() {
    let mut session = Session::new(1, 1, Settings::default());
    let body = json!({"model": "m", "input": "hi", "instructions": "be brief", "max_output_tokens": 5});
    let (path, native) = session.request(body.to_string().as_bytes()).unwrap();
    assert_eq!(path, "/tokenize");
    assert!(!String::from_utf8(native).unwrap().contains("max_tokens"));
    let counted = session.response(200, br#"{"input_tokens":31}"#).unwrap();
    assert_eq!(counted, br#"{"object":"response.input_tokens","input_tokens":31}"#);
    assert_eq!(session.response(404, b"{\"error\":{}}").unwrap(), b"{\"error\":{}}");
}
