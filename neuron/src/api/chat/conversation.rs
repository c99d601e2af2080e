//! The conversation of a chat request: messages, tools and the template's arguments.

use serde_json::{Map, Value, json};

use crate::{
    api::{
        error::ApiError,
        fields::{Fields, missing, wrong_type},
    },
    template::Conversation,
};

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
/// What OpenAI's clients say of how much is to be thought.
const EFFORTS: [&str; 6] = ["none", "minimal", "low", "medium", "high", "xhigh"];

/// Messages, tools and template arguments, checked.
pub(in crate::api) fn conversation(fields: Fields<'_>) -> Result<Conversation, ApiError> {
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
    Ok(Conversation { messages, tools, arguments: arguments(fields)? })
}

/// Variables of the template. How much is to be thought has several names there; those that a template does not
/// know mean nothing to it.
fn arguments(fields: Fields<'_>) -> Result<Map<String, Value>, ApiError> {
    let mut arguments = fields.object("chat_template_kwargs")?.cloned().unwrap_or_default();
    let mut add = |name: &str, value: Value| {
        arguments.entry(name).or_insert(value);
    };
    if let Some(effort) = fields.text("reasoning_effort")? {
        if !EFFORTS.contains(&effort) {
            let text = format!("reasoning_effort: {effort:?} is none of {}", EFFORTS.join(", "));
            return Err(ApiError::invalid("reasoning_effort", "invalid_value", text));
        }
        let thinks = effort != "none";
        add("enable_thinking", thinks.into());
        add("thinking", thinks.into());
        if thinks {
            add("reasoning_effort", effort.into());
        }
    }
    if fields.get("enable_thinking").is_some() {
        add("enable_thinking", fields.flag("enable_thinking")?.into());
    }
    Ok(arguments)
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
