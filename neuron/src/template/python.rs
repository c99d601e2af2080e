//! What templates expect of Python and of the transformers library.

use minijinja::{
    Error, ErrorKind, Value,
    value::{Serde, ValueKind},
};
use serde_json::{Map, Value as Json};

use crate::tokenizer::{Guard, Marked};

/// Marks errors that the template itself raised.
const RAISED: &str = "raised by the template: ";

pub(super) fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

/// What the template said, where it raised.
pub(super) fn raised(error: &Error) -> Option<String> {
    error.detail()?.strip_prefix(RAISED).map(str::to_owned)
}

/// `length`, which is 0 of what is not there.
pub(super) fn length(value: &Value) -> Result<usize, Error> {
    let none = || Error::new(ErrorKind::InvalidOperation, format!("{} has no length", value.kind()));
    if value.is_undefined() { Ok(0) } else { value.len().ok_or_else(none) }
}

/// `is iterable`; none is not.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// `is sequence`: all that has a length and parts.
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
}

/// How the arguments of calls are given to a template. OpenAI sends them as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arguments {
    /// Which is what most are written for.
    Maps,
    /// A few put them into the prompt as they are.
    Texts,
}

/// What models' thoughts are called, by templates and by clients.
const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A message as templates want it: content as text, thoughts by both names; and marked, but for the role, which is
/// one of a few that templates ask for.
pub(super) fn message(
    message: &Map<String, Json>,
    guard: &Guard,
    arguments: Arguments,
) -> Result<Value, Marked> {
    let mut message = message.clone();
    // What is nothing is left out, as by transformers.
    message.retain(|_, value| !value.is_null());
    if let Some(thoughts) = THOUGHTS.iter().find_map(|name| message.get(*name)).cloned() {
        for name in &THOUGHTS[..2] {
            message.entry(*name).or_insert_with(|| thoughts.clone());
        }
    }
    if let Some(content) = message.get_mut("content")
        && let Json::Array(parts) = content
    {
        let text = |part: &Json| Some(part.get("text").or_else(|| part.get("refusal"))?.as_str()?.to_owned());
        // Lines of their own, as other servers for such models put them.
        let texts: Vec<String> = parts.iter().filter_map(text).collect();
        *content = Json::String(texts.join("\n"));
    }
    if let Some(Json::Array(calls)) = message.get_mut("tool_calls").filter(|_| arguments == Arguments::Maps) {
        for call in calls {
            let Some(arguments) = call.pointer_mut("/function/arguments") else { continue };
            let parsed = arguments.as_str().and_then(|text| serde_json::from_str::<Map<_, _>>(text).ok());
            if let Some(parsed) = parsed {
                *arguments = Json::Object(parsed);
            }
        }
    }
    let role = message.get("role").cloned();
    guard.mark_map(&mut message)?;
    if let Some(role) = role {
        message.insert("role".to_owned(), role);
    }
    Ok(Value::from(Serde(&message)))
}
