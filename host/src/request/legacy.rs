//! `functions`, as clients called tools before there were tools: the same in older words, which servers have forgotten.
//! Source: OpenAI's API reference, "Create chat completion", deprecated fields.

use crate::sse;
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// The request in today's words; `None` where it is in them already.
pub(super) fn modern(body: &[u8]) -> Option<Bytes> {
    let has = |word: &str| memchr::memmem::find(body, word.as_bytes()).is_some();
    if !has("\"functions\"") && !has("\"function_call\"") {
        return None;
    }
    let mut request: Map<String, Value> = serde_json::from_slice(body).ok()?;
    if request.get("tools").is_some_and(Value::is_null) {
        request.remove("tools");
    }
    let of_the_request =
        !request.contains_key("tools") && request.get("functions").is_some_and(Value::is_array);
    if of_the_request {
        let functions = request.remove("functions")?;
        let tools =
            functions.as_array()?.iter().map(|function| json!({"type": "function", "function": function}));
        request.insert("tools".into(), tools.collect());
        // One is all that the older words can say.
        request.insert("parallel_tool_calls".into(), false.into());
        match request.remove("function_call") {
            Some(Value::String(mode)) => drop(request.insert("tool_choice".into(), mode.into())),
            Some(Value::Object(one)) => {
                drop(request.insert("tool_choice".into(), json!({"type": "function", "function": one})));
            }
            _ => {}
        }
    }
    let in_the_messages =
        request.get_mut("messages").and_then(Value::as_array_mut).is_some_and(|m| messages(m));
    (of_the_request || in_the_messages).then(|| Value::from(request).to_string().into())
}

/// Calls get ids, and results those of the calls before them. True where there was one.
fn messages(messages: &mut [Value]) -> bool {
    let (mut changed, mut last) = (false, String::new());
    for (at, message) in messages.iter_mut().enumerate() {
        let Some(fields) = message.as_object_mut() else { continue };
        if let Some(call) = fields.remove("function_call").filter(Value::is_object) {
            last = format!("call_{at}");
            fields.insert("tool_calls".into(), json!([{"id": last, "type": "function", "function": call}]));
            changed = true;
        }
        if fields.get("role").is_some_and(|role| role == "function") {
            fields.insert("role".into(), "tool".into());
            fields.insert("tool_call_id".into(), last.as_str().into());
            fields.remove("name");
            changed = true;
        }
    }
    changed
}

/// Whether the answer has to be in the older words, too.
pub(super) fn is_asked_for(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Asked {
        functions: Option<Vec<serde::de::IgnoredAny>>,
        tools: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Asked>(body)
        .is_ok_and(|asked| asked.functions.is_some() && asked.tools.is_none())
}

/// A whole answer in the older words.
pub(super) fn answer(body: &[u8]) -> Vec<u8> {
    let Ok(mut answer) = serde_json::from_slice::<Value>(body) else { return body.to_vec() };
    for choice in answer["choices"].as_array_mut().into_iter().flatten() {
        older(choice, "message");
    }
    answer.to_string().into_bytes()
}

/// Whole events of a stream in the older words.
pub(super) fn events(events: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(events.len());
    for event in sse::events(events) {
        let chunk = event.data().and_then(|data| serde_json::from_slice::<Value>(&data).ok());
        match chunk.filter(|chunk| chunk["choices"].is_array()) {
            Some(mut chunk) => {
                chunk["choices"]
                    .as_array_mut()
                    .into_iter()
                    .flatten()
                    .for_each(|choice| older(choice, "delta"));
                out.extend(format!("data: {chunk}\n\n").bytes());
            }
            None => out.extend_from_slice(event.0),
        }
    }
    out
}

fn older(choice: &mut Value, said: &str) {
    if choice["finish_reason"] == "tool_calls" {
        choice["finish_reason"] = "function_call".into();
    }
    let Some(fields) = choice.get_mut(said).and_then(Value::as_object_mut) else { return };
    let Some(calls) = fields.remove("tool_calls") else { return };
    let first =
        calls.as_array().and_then(|calls| calls.iter().find(|c| c["index"].as_u64().unwrap_or(0) == 0));
    if let Some(function) = first.map(|call| call["function"].clone()).filter(Value::is_object) {
        fields.insert("function_call".into(), function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: Value, want: Option<Value>) {
        let got = modern(body.to_string().as_bytes()).map(|b| serde_json::from_slice::<Value>(&b).unwrap());
        assert_eq!(got, want);
    }

    #[test]
    fn requests() {
        let function = json!({"name": "f", "parameters": {"z": 1, "a": 2}});
        check(
            json!({"model": "m", "functions": [function], "function_call": {"name": "f"}, "messages": [
                {"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}},
                {"role": "function", "name": "f", "content": "x"}]}),
            Some(
                json!({"model": "m", "tools": [{"type": "function", "function": function}], "parallel_tool_calls": false,
                "tool_choice": {"type": "function", "function": {"name": "f"}}, "messages": [
                {"role": "assistant", "content": null, "tool_calls": [{"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "call_0", "content": "x"}]}),
            ),
        );
        check(
            json!({"functions": [], "function_call": "none"}),
            Some(json!({"tools": [], "parallel_tool_calls": false, "tool_choice": "none"})),
        );
        check(json!({"messages": [{"content": "about \"functions\""}]}), None);
        check(json!({"tools": [], "functions": []}), None);
        check(
            json!({"tools": null, "functions": []}),
            Some(json!({"tools": [], "parallel_tool_calls": false})),
        );
        check(json!({"functions": 5}), None);
        assert_eq!(modern(b"{\"functions\""), None);
    }

    #[test]
    fn answers() {
        let call = json!({"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}});
        let whole = json!({"choices": [{"message": {"content": null, "tool_calls": [call]}, "finish_reason": "tool_calls"}]});
        let got: Value = serde_json::from_slice(&answer(whole.to_string().as_bytes())).unwrap();
        assert_eq!(
            got,
            json!({"choices": [{"message": {"content": null, "function_call": {"name": "f", "arguments": "{}"}}, "finish_reason": "function_call"}]})
        );
        let stream = format!(
            ": x\n\ndata: {}\n\ndata: [DONE]\n\n",
            json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}, {"index": 1}]}, "finish_reason": null}]})
        );
        let want = format!(
            ": x\n\ndata: {}\n\ndata: [DONE]\n\n",
            json!({"choices": [{"delta": {"function_call": {"arguments": "{"}}, "finish_reason": null}]})
        );
        assert_eq!(String::from_utf8(events(stream.as_bytes())).unwrap(), want);
        assert_eq!(answer(b"no json"), b"no json");
    }
}
