//! `POST /v1/chat/completions`.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::HeaderMap;
use serde_json::{Map, Value, json};

use super::{
    App, body,
    error::ApiError,
    fields::{Fields, missing, wrong_type},
    generate::{Answer, Part},
    layers::unique,
    params::Params,
    remember::Remember,
    sse, tokens,
};
use crate::template::Conversation;

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

pub(super) async fn chat(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = body::bytes(body).await?;
    let object = body::object(&body)?;
    let fields = Fields(&object);
    let params = Params::parse(fields)?.from(&headers);
    let conversation = Arc::new(conversation(fields)?);
    let ready = app.registry.ready(&params.model).map_err(|why| ApiError::not_ready(&params.model, why))?;
    let seat = Answer::admit(&app, &ready)?;
    let (text, window) = (Arc::clone(&ready.text), ready.window());
    let asked = Arc::clone(&conversation);
    let prompt = app.tokenizing.run(move || tokens::of_chat(&text, &asked, window)).await?;
    let prompt = prompt.map_err(|refused| refused.into_error(ready.context))?;
    let remember = Remember::new(&app, &ready, &params.caller, body, &conversation, &prompt);
    let mut answer = Answer::start(&app, ready, seat, prompt, "messages", &params).await?;
    answer.remember = remember;

    let (id, created, include_usage) = (unique("chatcmpl"), unix_now(), params.include_usage);
    let frame = Frame { id, created, model: params.model, include_usage };
    if params.stream {
        return Ok(sse::response(chunks(answer, frame)));
    }
    let (content, end) = answer.collect().await?;
    let message = json!({ "role": "assistant", "content": content, "refusal": null });
    let mut whole = frame.fill(
        "chat.completion",
        json!([{
            "index": 0, "message": message, "logprobs": null,
            "finish_reason": end.reason, "stop_reason": end.stop,
        }]),
    );
    whole["usage"] = end.usage;
    Ok(Json(whole).into_response())
}

/// What all objects of one answer share.
struct Frame {
    id: String,
    created: u64,
    model: String,
    /// Usage comes in a chunk of its own, and all others say that theirs is null.
    include_usage: bool,
}

impl Frame {
    fn fill(&self, object: &str, choices: Value) -> Value {
        let Self { id, created, model, .. } = self;
        json!({ "id": id, "object": object, "created": created, "model": model, "choices": choices })
    }

    fn chunk(&self, delta: Value, reason: Option<&str>) -> Value {
        let choice = json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": reason });
        let mut chunk = self.fill("chat.completion.chunk", json!([choice]));
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }
}

/// The role, the words as they come, the reason for the end, usage where it was asked for, `[DONE]`.
fn chunks(answer: Answer, frame: Frame) -> impl Stream<Item = Bytes> + Send {
    let role = sse::event(&frame.chunk(json!({ "role": "assistant", "content": "" }), None));
    let rest = stream::unfold(Some((answer, frame)), |state| async move {
        let (mut answer, frame) = state?;
        match answer.next().await? {
            Ok(Part::Text(text)) => {
                let event = sse::event(&frame.chunk(json!({ "content": text }), None));
                Some((event, Some((answer, frame))))
            }
            Ok(Part::End(end)) => {
                let mut last = frame.chunk(json!({}), Some(end.reason));
                last["choices"][0]["stop_reason"] = json!(end.stop);
                let mut bytes = sse::event(&last).to_vec();
                if frame.include_usage {
                    let mut usage = frame.fill("chat.completion.chunk", json!([]));
                    usage["usage"] = end.usage;
                    bytes.extend_from_slice(&sse::event(&usage));
                }
                bytes.extend_from_slice(&sse::done());
                Some((bytes.into(), None))
            }
            // The status has gone out: the error is an event, and the stream ends without [DONE].
            Err(error) => Some((sse::event(&error.to_wire()), None)),
        }
    });
    stream::once(async move { role }).chain(rest)
}

/// Messages, tools and template arguments, checked.
pub(super) fn conversation(fields: Fields<'_>) -> Result<Conversation, ApiError> {
    let messages = fields.array("messages")?.ok_or_else(|| missing("messages"))?;
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "invalid_value", "messages is empty"));
    }
    let messages = messages.iter().enumerate().map(|(i, m)| message(i, m)).collect::<Result<Vec<_>, _>>()?;
    let tools = fields.array("tools")?.unwrap_or_default();
    if let Some((i, tool)) = tools.iter().enumerate().find(|(_, tool)| !tool.is_object()) {
        return Err(wrong_type(&format!("tools[{i}]"), "an object", tool));
    }
    let unwanted = fields.get("tool_choice").is_some_and(|choice| choice == "none");
    let tools = if unwanted { Vec::new() } else { tools.to_vec() };
    let arguments = fields.object("chat_template_kwargs")?.cloned().unwrap_or_default();
    Ok(Conversation { messages, tools, arguments })
}

fn message(i: usize, value: &Value) -> Result<Map<String, Value>, ApiError> {
    let at = |field: &str| format!("messages[{i}]{field}");
    let mut message = value.as_object().ok_or_else(|| wrong_type(&at(""), "an object", value))?.clone();
    let role = match message.get("role") {
        None => return Err(missing(&at(".role"))),
        Some(role) => role.as_str().ok_or_else(|| wrong_type(&at(".role"), "a string", role))?,
    };
    if !ROLES.contains(&role) {
        let text = format!("{}: {role:?} is none of {}", at(".role"), ROLES.join(", "));
        return Err(ApiError::invalid(&at(".role"), "invalid_value", text));
    }
    // The newer name of the same thing; templates know the older.
    if role == "developer" {
        message.insert("role".to_owned(), json!("system"));
    }
    match message.get("content") {
        Some(Value::String(_)) => {}
        Some(Value::Array(parts)) => check_parts(&at(".content"), parts)?,
        // An assistant that only called tools, or said nothing, has no words.
        None | Some(Value::Null) if message.get("role").is_some_and(|role| role == "assistant") => {
            message.insert("content".to_owned(), json!(""));
        }
        None | Some(Value::Null) => return Err(missing(&at(".content"))),
        Some(other) => return Err(wrong_type(&at(".content"), "a string or an array of parts", other)),
    }
    Ok(message)
}

fn check_parts(at: &str, parts: &[Value]) -> Result<(), ApiError> {
    for (i, part) in parts.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let kind = part.get("type").and_then(Value::as_str).unwrap_or("text");
        match kind {
            "text" | "input_text" | "output_text" | "refusal" => {
                let text = part.get("text").or_else(|| part.get("refusal"));
                if !text.is_some_and(Value::is_string) {
                    return Err(wrong_type(&format!("{at}.text"), "a string", text.unwrap_or(&Value::Null)));
                }
            }
            other => {
                let text = format!("{at}: {other} is not supported: this model reads text only");
                return Err(ApiError::invalid(&at, "vision_unsupported", text));
            }
        }
    }
    Ok(())
}

/// Seconds since 1970.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: Value) -> Result<Conversation, Option<String>> {
        let Value::Object(object) = value else { panic!("an object") };
        conversation(Fields(&object)).map_err(|e| e.body.param)
    }

    #[test]
    fn good_conversations_pass() {
        let got = parse(json!({"messages": [
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [{"type": "text", "text": "t"}], "name": "kept"},
            {"role": "assistant", "content": null, "tool_calls": []},
            {"role": "tool", "content": "r", "tool_call_id": "1"},
        ], "tools": [{}], "chat_template_kwargs": {"a": 1}}))
        .unwrap();
        assert_eq!(got.messages[0]["role"], "system");
        assert_eq!(got.messages[1]["name"], "kept");
        assert_eq!(got.messages[2]["content"], "");
        assert_eq!((got.tools.len(), got.arguments.len()), (1, 1));
        let none = parse(
            json!({"messages": [{"role": "user", "content": ""}], "tools": [{}], "tool_choice": "none"}),
        );
        assert!(none.unwrap().tools.is_empty());
    }

    #[test]
    fn errors_name_the_place() {
        let check = |messages: Value, expected: &str| {
            let got = parse(json!({ "messages": messages })).unwrap_err();
            assert_eq!(got.as_deref(), Some(expected), "{messages}");
        };
        check(json!("hi"), "messages");
        check(json!([]), "messages");
        check(json!(["hi"]), "messages[0]");
        check(json!([{"content": "x"}]), "messages[0].role");
        check(
            json!([{"role": "user", "content": "x"}, {"role": "king", "content": "x"}]),
            "messages[1].role",
        );
        check(json!([{"role": 1, "content": "x"}]), "messages[0].role");
        check(json!([{"role": "user"}]), "messages[0].content");
        check(json!([{"role": "user", "content": 5}]), "messages[0].content");
        check(json!([{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text");
        check(
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
            "messages[0].content[0]",
        );
        assert_eq!(parse(json!({})).unwrap_err().as_deref(), Some("messages"));
        let tools = parse(json!({"messages": [{"role": "user", "content": ""}], "tools": [1]}));
        assert_eq!(tools.unwrap_err().as_deref(), Some("tools[0]"));
    }
}
