//! Items of the output, as JSON.

use crate::custom;
use crate::tools::Stands;
use serde_json::{Value, json};

/// Before thoughts in `encrypted_content`: that is where clients keep them for the next turn. They belong to whoever
/// asked, so there is nothing to hide.
pub(crate) const PLAIN: &str = "plain:";

pub(crate) fn reasoning(id: &str, text: &str, kept: bool, status: &str) -> Value {
    let content = if text.is_empty() { json!([]) } else { json!([{"type": "reasoning_text", "text": text}]) };
    let mut item =
        json!({"id": id, "type": "reasoning", "summary": [], "content": content, "status": status});
    if kept {
        item["encrypted_content"] = [PLAIN, text].concat().into();
    }
    item
}

pub(crate) fn message(id: &str, content: Option<Value>, status: &str) -> Value {
    let content: Vec<Value> = content.into_iter().collect();
    json!({"id": id, "type": "message", "role": "assistant", "status": status, "content": content})
}

pub(crate) fn output_text(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

/// A call, with what stands behind its name.
pub(crate) struct Called<'a> {
    pub(crate) id: &'a str,
    pub(crate) call_id: &'a str,
    /// As the model said it.
    pub(crate) name: &'a str,
    pub(crate) stands: Option<&'a Stands>,
}

impl Called<'_> {
    pub(crate) fn is_custom(&self) -> bool {
        self.stands.is_some_and(|stands| stands.custom)
    }

    /// `arguments`: JSON.
    pub(crate) fn item(&self, arguments: &str, status: &str) -> Value {
        let name = self.stands.map_or(self.name, |stands| &stands.name);
        let mut item = match self.is_custom() {
            true => {
                json!({"id": self.id, "type": "custom_tool_call", "status": status, "call_id": self.call_id,
                "name": name, "input": custom::whole(arguments)})
            }
            false => {
                json!({"id": self.id, "type": "function_call", "status": status, "call_id": self.call_id,
                "name": name, "arguments": arguments})
            }
        };
        if let Some(namespace) = self.stands.and_then(|stands| stands.namespace.as_ref()) {
            item["namespace"] = namespace.as_str().into();
        }
        item
    }
}

/// Ids by kind, of the session's seed and the item's place.
pub(crate) fn id(prefix: &str, seed: u64, at: u64) -> String {
    format!("{prefix}_{}", policy_chat::id::digits(seed, 1 + at))
}
