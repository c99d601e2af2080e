//! Messages' stream as a native one.

use crate::error;
use crate::response::{Block, Usage, call_id, finish};
use policy_chat::Text;
use policy_chat::sse;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Default)]
pub(crate) struct Stream {
    id: String,
    model: String,
    usage: Usage,
    /// Calls that have begun.
    calls: u64,
    /// The open block is one of them.
    in_call: bool,
    finished: bool,
    over: bool,
}

#[derive(Debug, Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow, default)]
    message: Option<Start<'a>>,
    #[serde(borrow, default)]
    content_block: Option<Block<'a>>,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Start<'a> {
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(borrow, default)]
    model: Text<'a>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Debug, Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
    #[serde(borrow, default)]
    thinking: Option<Text<'a>>,
    #[serde(borrow, default)]
    partial_json: Option<Text<'a>>,
    #[serde(borrow, default)]
    stop_reason: Option<Text<'a>>,
    #[serde(borrow, default)]
    stop_sequence: Option<Text<'a>>,
}

impl Stream {
    /// Whole events.
    pub(crate) fn events(&mut self, events: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(events.len() + events.len() / 2);
        sse::each(events, |data| self.event(data, &mut out));
        out
    }

    /// The upstream's stream is over. One that broke off stays without an end: the host says what that means.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.finished {
            self.end(&mut out);
        }
        out
    }

    fn event(&mut self, data: &[u8], out: &mut Vec<u8>) {
        if self.over {
            return;
        }
        let event: Event<'_> = match serde_json::from_slice(data) {
            Ok(event) => event,
            Err(error) => {
                let message = format!("the upstream's stream could not be read: {error}");
                return self.fail(&json!({"type": "api_error", "message": message}), out);
            }
        };
        match &*event.kind {
            "message_start" => self.start(event.message, out),
            "content_block_start" => self.block(event.content_block, out),
            "content_block_delta" => self.delta(event.delta, out),
            "content_block_stop" => self.in_call = false,
            "message_delta" => {
                if let Some(usage) = event.usage {
                    self.usage.merge(usage);
                }
                self.stop(event.delta, out);
            }
            "message_stop" => self.end(out),
            "error" => self.fail(&event.error.unwrap_or_default(), out),
            _ => {}
        }
    }

    fn start(&mut self, message: Option<Start<'_>>, out: &mut Vec<u8>) {
        if let Some(Start { id, model, usage }) = message {
            (self.id, self.model, self.usage) =
                (id.into_owned(), model.into_owned(), usage.unwrap_or_default());
            // What the prompt took is known now, and counts whatever becomes of the stream.
            self.say_usage(&self.usage.begun(), out);
        }
        self.chunk(&json!({"role": "assistant", "content": ""}), None, &Value::Null, out);
    }

    fn block(&mut self, block: Option<Block<'_>>, out: &mut Vec<u8>) {
        let Some(block) = block else { return };
        for (field, text) in [("content", &block.text), ("reasoning_content", &block.thinking)] {
            if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
                self.chunk(&json!({field: text}), None, &Value::Null, out);
            }
        }
        if &*block.kind != "tool_use" {
            return;
        }
        self.in_call = true;
        // Whole ones come with their input.
        let input = block.input.as_ref().map_or("", |input| input.get());
        let arguments = if input == "{}" { "" } else { input };
        let call = json!({"index": self.calls, "id": call_id(block.id.as_ref()), "type": "function",
            "function": {"name": block.name, "arguments": arguments}});
        self.calls += 1;
        self.chunk(&json!({"tool_calls": [call]}), None, &Value::Null, out);
    }

    fn delta(&mut self, delta: Option<Delta<'_>>, out: &mut Vec<u8>) {
        let Some(delta) = delta else { return };
        if let Some(text) = delta.text.filter(|text| !text.is_empty()) {
            self.chunk(&json!({"content": text}), None, &Value::Null, out);
        }
        if let Some(text) = delta.thinking.filter(|text| !text.is_empty()) {
            self.chunk(&json!({"reasoning_content": text}), None, &Value::Null, out);
        }
        if let Some(json) = delta.partial_json.filter(|json| self.in_call && !json.is_empty()) {
            let call = json!({"index": self.calls - 1, "function": {"arguments": json}});
            self.chunk(&json!({"tool_calls": [call]}), None, &Value::Null, out);
        }
    }

    fn stop(&mut self, delta: Option<Delta<'_>>, out: &mut Vec<u8>) {
        let Some(Delta { stop_reason: Some(reason), stop_sequence, .. }) = delta else { return };
        self.finished = true;
        self.chunk(&json!({}), Some(finish(Some(&reason))), &json!(stop_sequence), out);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.over {
            return;
        }
        self.over = true;
        self.say_usage(&self.usage, out);
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn say_usage(&self, usage: &Usage, out: &mut Vec<u8>) {
        let chunk = json!({"id": self.id, "object": "chat.completion.chunk", "created": 0, "model": self.model,
            "choices": [], "usage": usage.native()});
        sse::data(out, &chunk);
    }

    fn fail(&mut self, error: &Value, out: &mut Vec<u8>) {
        self.over = true;
        let status = error::status(error["type"].as_str().unwrap_or_default());
        let mut native = error::native(error, status);
        native["error"]["status"] = status.into();
        sse::data(out, &native);
    }

    fn chunk(&self, delta: &Value, finish: Option<&str>, stop: &Value, out: &mut Vec<u8>) {
        let mut choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        if !stop.is_null() {
            choice["stop_reason"] = stop.clone();
        }
        let chunk = json!({"id": self.id, "object": "chat.completion.chunk", "created": 0, "model": self.model,
            "choices": [choice]});
        sse::data(out, &chunk);
    }
}
