//! Whole messages as chat completions.

use policy_chat::Text;
use policy_chat::id::unescape;
use policy_chat::text::{Json, count, if_text};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    model: Text<'a>,
    #[serde(borrow)]
    content: Vec<Block<'a>>,
    #[serde(borrow, default)]
    stop_reason: Option<Text<'a>>,
    #[serde(borrow, default)]
    stop_sequence: Option<Text<'a>>,
    #[serde(default)]
    usage: Option<Usage>,
}

/// A content block, also one that has just begun.
#[derive(Debug, Deserialize)]
pub(crate) struct Block<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Text<'a>,
    #[serde(borrow, default, deserialize_with = "if_text")]
    pub(crate) text: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "if_text")]
    pub(crate) thinking: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "if_text")]
    pub(crate) id: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "if_text")]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) input: Option<Json<'a>>,
}

/// Tokens. In a stream counts come in two events, and what the second leaves out stays.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Usage {
    #[serde(deserialize_with = "count")]
    input_tokens: u64,
    #[serde(deserialize_with = "count")]
    cache_creation_input_tokens: u64,
    #[serde(deserialize_with = "count")]
    cache_read_input_tokens: u64,
    #[serde(deserialize_with = "count")]
    output_tokens: u64,
}

impl Usage {
    pub(crate) fn merge(&mut self, newer: Self) {
        let last = |newer: u64, older: u64| if newer > 0 { newer } else { older };
        self.input_tokens = last(newer.input_tokens, self.input_tokens);
        self.cache_creation_input_tokens =
            last(newer.cache_creation_input_tokens, self.cache_creation_input_tokens);
        self.cache_read_input_tokens = last(newer.cache_read_input_tokens, self.cache_read_input_tokens);
        self.output_tokens = last(newer.output_tokens, self.output_tokens);
    }

    /// Before anything is said.
    pub(crate) fn begun(self) -> Self {
        Self { output_tokens: 0, ..self }
    }

    /// The prompt's tokens are all of them, the cached ones too.
    pub(crate) fn native(&self) -> Value {
        let prompt = self.input_tokens + self.cache_creation_input_tokens + self.cache_read_input_tokens;
        json!({"prompt_tokens": prompt, "completion_tokens": self.output_tokens,
            "total_tokens": prompt + self.output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cache_read_input_tokens}})
    }
}

/// `finish_reason`
pub(crate) fn finish(stop_reason: Option<&str>) -> &'static str {
    match stop_reason {
        Some("max_tokens" | "model_context_window_exceeded") => "length",
        Some("tool_use") => "tool_calls",
        Some("refusal") => "content_filter",
        _ => "stop",
    }
}

/// The native id of a call.
pub(crate) fn call_id(id: Option<&Text<'_>>) -> String {
    let id = id.map(|id| &**id).unwrap_or_default();
    unescape(id).unwrap_or_else(|| id.to_owned())
}

/// The error is for the log.
pub(crate) fn completion(body: &[u8]) -> Result<Value, String> {
    let message: Message<'_> =
        serde_json::from_slice(body).map_err(|e| format!("the upstream's answer is no message: {e}"))?;
    let (mut words, mut thoughts, mut calls) = (String::new(), String::new(), Vec::new());
    for block in &message.content {
        match &*block.kind {
            "text" => words.push_str(block.text.as_deref().unwrap_or_default()),
            "thinking" => thoughts.push_str(block.thinking.as_deref().unwrap_or_default()),
            "tool_use" => calls
                .push(json!({"id": call_id(block.id.as_ref()), "type": "function", "function": {
                "name": block.name, "arguments": block.input.as_ref().map_or("{}", |input| input.get())}})),
            _ => {}
        }
    }
    let content = if words.is_empty() && !calls.is_empty() { Value::Null } else { words.into() };
    let mut said = json!({"role": "assistant", "content": content});
    if !thoughts.is_empty() {
        said["reasoning_content"] = thoughts.into();
    }
    if !calls.is_empty() {
        said["tool_calls"] = calls.into();
    }
    let choice = json!({"index": 0, "message": said, "finish_reason": finish(message.stop_reason.as_deref()),
        "stop_reason": message.stop_sequence});
    Ok(json!({"id": message.id, "object": "chat.completion", "created": 0, "model": message.model,
        "choices": [choice], "usage": message.usage.unwrap_or_default().native()}))
}
