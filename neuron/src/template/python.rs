//! What templates expect of Python and of the transformers library.

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, Serde},
};
use serde_json::{Map, Value as Json};

use crate::tokenizer::{Guard, Marked};

/// Marks errors that the template itself raised.
const RAISED: &str = "raised by the template: ";

/// Rewrites the little that the engine does not know.
pub(super) fn adapt(source: &str) -> String {
    let mut text = source.replace("[::-1]", "|reverse");
    // Marks which tokens are trained on; without meaning when a prompt is made.
    for tag in ["generation", "endgeneration"] {
        for (open, close) in [("{%", "%}"), ("{%-", "%}"), ("{%", "-%}"), ("{%-", "-%}")] {
            text = text.replace(&format!("{open} {tag} {close}"), &empty_block(open, close));
        }
    }
    text
}

/// A block that does nothing but strip whitespace as the one in its place did.
fn empty_block(open: &str, close: &str) -> String {
    format!("{open} if true %}}{{% endif {close}")
}

pub(super) fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

/// What the template said, where it raised.
pub(super) fn raised(error: &Error) -> Option<String> {
    error.detail()?.strip_prefix(RAISED).map(str::to_owned)
}

/// A message as templates want it: content as text, arguments of tool calls as maps; and marked, but for
/// the role, which is one of a few that templates ask for.
pub(super) fn message(message: &Map<String, Json>, guard: &Guard) -> Result<Value, Marked> {
    let mut message = message.clone();
    if let Some(content) = message.get_mut("content")
        && let Json::Array(parts) = content
    {
        let text = |part: &Json| Some(part.get("text").or_else(|| part.get("refusal"))?.as_str()?.to_owned());
        // Lines of their own, as other servers for such models put them.
        let texts: Vec<String> = parts.iter().filter_map(text).collect();
        *content = Json::String(texts.join("\n"));
    }
    if let Some(Json::Array(calls)) = message.get_mut("tool_calls") {
        for call in calls {
            let Some(arguments) = call.pointer_mut("/function/arguments") else { continue };
            // OpenAI sends the object as text; a template that loops over it needs the object.
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

/// Python's `json.dumps(…, ensure_ascii=False)`: `, ` and `: ` between, no HTML escapes.
pub(super) fn tojson(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    // Accepted as Python does, without effect: what is rendered is never ASCII only.
    for ignored in ["ensure_ascii", "sort_keys", "separators"] {
        kwargs.get::<Option<Value>>(ignored)?;
    }
    kwargs.assert_all_used()?;
    let json =
        serde_json::to_value(value).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let mut text = String::new();
    dump(&json, indent, 0, &mut text);
    Ok(Value::from_safe_string(text))
}

fn dump(value: &Json, indent: Option<usize>, depth: usize, out: &mut String) {
    match value {
        Json::Array(items) => {
            let items = items.iter().map(|item| (None, item));
            dump_all('[', ']', items, indent, depth, out);
        }
        Json::Object(map) => {
            let items = map.iter().map(|(key, item)| (Some(key), item));
            dump_all('{', '}', items, indent, depth, out);
        }
        plain => out.push_str(&plain.to_string()),
    }
}

fn dump_all<'j>(
    open: char,
    close: char,
    items: impl ExactSizeIterator<Item = (Option<&'j String>, &'j Json)>,
    indent: Option<usize>,
    depth: usize,
    out: &mut String,
) {
    out.push(open);
    let empty = items.len() == 0;
    let new_line = |depth: usize, out: &mut String| {
        if let Some(width) = indent {
            out.push('\n');
            out.push_str(&" ".repeat(width * depth));
        }
    };
    for (i, (key, item)) in items.enumerate() {
        if i > 0 {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        new_line(depth + 1, out);
        if let Some(key) = key {
            out.push_str(&Json::String(key.clone()).to_string());
            out.push_str(": ");
        }
        dump(item, indent, depth + 1, out);
    }
    if !empty {
        new_line(depth, out);
    }
    out.push(close);
}
