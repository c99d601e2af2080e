//! Tools for models whose templates know none: they are told of them in the instructions, and write calls as
//! Hermes does.

use serde_json::{Map, Value, json};

use crate::template::Conversation;

/// The same conversation without tools, calls and results in it: each as words of somebody.
pub(crate) fn rewrite(conversation: &Conversation) -> Conversation {
    let mut messages: Vec<Map<String, Value>> = Vec::with_capacity(conversation.messages.len() + 1);
    for message in &conversation.messages {
        match message.get("role").and_then(Value::as_str) {
            Some("tool") => result(message, &mut messages),
            Some("assistant") => messages.push(calls(message)),
            _ => messages.push(message.clone()),
        }
    }
    if !conversation.tools.is_empty() {
        instruct(&instructions(&conversation.tools), &mut messages);
    }
    Conversation { messages, tools: Vec::new(), arguments: conversation.arguments.clone() }
}

fn instructions(tools: &[Value]) -> String {
    let mut text =
        "You can call functions. This is what there is, one JSON object a line:\n<tools>\n".to_owned();
    for tool in tools {
        text += &tool.get("function").unwrap_or(tool).to_string();
        text.push('\n');
    }
    text += concat!(
        "</tools>\nTo call one, write its name and its arguments as a JSON object between tags:\n",
        "<tool_call>\n{\"name\": \"function's name\", \"arguments\": {\"argument\": \"value\"}}\n</tool_call>\n",
        "What it returns comes between <tool_response> and </tool_response>.",
    );
    text
}

fn instruct(text: &str, messages: &mut Vec<Map<String, Value>>) {
    let first = messages.first_mut().filter(|m| m.get("role").is_some_and(|role| role == "system"));
    match first {
        Some(first) => {
            let whole = match words(first) {
                said if said.is_empty() => text.to_owned(),
                said => format!("{said}\n\n{text}"),
            };
            first.insert("content".to_owned(), Value::from(whole));
        }
        None => messages.insert(0, said("system", text)),
    }
}

/// An assistant's calls behind its words.
fn calls(message: &Map<String, Value>) -> Map<String, Value> {
    let mut message = message.clone();
    let Some(Value::Array(calls)) = message.remove("tool_calls") else { return message };
    let mut text = words(&message);
    for call in &calls {
        let function = &call["function"];
        // As the model wrote it: the object, not its text.
        let arguments = function["arguments"].as_str().and_then(|text| serde_json::from_str(text).ok());
        let arguments: Value = arguments.unwrap_or_else(|| function["arguments"].clone());
        let call = json!({ "name": function["name"], "arguments": arguments });
        if !text.is_empty() {
            text.push('\n');
        }
        text += &format!("<tool_call>\n{call}\n</tool_call>");
    }
    message.insert("content".to_owned(), Value::from(text));
    message
}

/// Results that follow each other are one turn.
fn result(message: &Map<String, Value>, messages: &mut Vec<Map<String, Value>>) {
    let text = format!("<tool_response>\n{}\n</tool_response>", words(message));
    match messages.last_mut().filter(|last| last.get("role").is_some_and(|role| role == "user")) {
        Some(last) if words(last).starts_with("<tool_response>") => {
            let whole = format!("{}\n{text}", words(last));
            last.insert("content".to_owned(), Value::from(whole));
        }
        _ => messages.push(said("user", &text)),
    }
}

fn said(role: &str, text: &str) -> Map<String, Value> {
    [("role".to_owned(), Value::from(role)), ("content".to_owned(), Value::from(text))].into_iter().collect()
}

/// A message's content as text.
fn words(message: &Map<String, Value>) -> String {
    match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(messages: Value, tools: Value) -> Conversation {
        let object = |value: &Value| value.as_object().unwrap().clone();
        let messages = messages.as_array().unwrap().iter().map(object).collect();
        Conversation { messages, tools: tools.as_array().unwrap().clone(), ..Conversation::default() }
    }

    #[test]
    fn calls_and_results_become_words() {
        let call = |name: &str, arguments: &str| json!({"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}});
        let told = rewrite(&conversation(
            json!([
                {"role": "user", "content": "weather?"},
                {"role": "assistant", "content": "", "tool_calls": [call("a", "{\"x\": 1}"), call("b", "{}")]},
                {"role": "tool", "tool_call_id": "1", "content": "sun"},
                {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "rain"}]},
            ]),
            json!([{"type": "function", "function": {"name": "a"}}]),
        ));
        let texts: Vec<(&str, &str)> = told
            .messages
            .iter()
            .map(|m| (m["role"].as_str().unwrap(), m["content"].as_str().unwrap()))
            .collect();
        assert_eq!(texts[0].0, "system");
        assert!(texts[0].1.contains("{\"name\":\"a\"}\n</tools>"), "{}", texts[0].1);
        assert_eq!(texts[1], ("user", "weather?"));
        let calls = "<tool_call>\n{\"name\":\"a\",\"arguments\":{\"x\":1}}\n</tool_call>\n<tool_call>\n{\"name\":\"b\",\"arguments\":{}}\n</tool_call>";
        assert_eq!(texts[2], ("assistant", calls));
        let results = "<tool_response>\nsun\n</tool_response>\n<tool_response>\nrain\n</tool_response>";
        assert_eq!(texts[3], ("user", results));
        assert!(told.tools.is_empty() && told.messages[2].get("tool_calls").is_none());
    }

    #[test]
    fn instructions_that_are_there_stay_in_front() {
        let told = rewrite(&conversation(
            json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "x"}]),
            json!([{}]),
        ));
        assert_eq!(told.messages.len(), 2);
        assert!(told.messages[0]["content"].as_str().unwrap().starts_with("be brief\n\nYou can call"));
    }
}
