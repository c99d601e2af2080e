//! A native stream as Anthropic's: message_start, blocks one after another, message_delta, message_stop.

use crate::request::Asked;
use crate::{error, response};
use policy_chat::answer::{Finish, Usage};
use policy_chat::error::NativeError;
use policy_chat::id::escape;
use policy_chat::sse::{event, json as write};
use policy_chat::stream::{First, Kind, NewCall, Writer};
use policy_chat::write::string;
use serde_json::{Value, json};

pub(crate) struct Messages {
    pub(crate) id: String,
    pub(crate) asked: Asked,
    /// Index of the next block.
    next: u64,
}

impl Messages {
    pub(crate) fn new(id: String) -> Self {
        Self { id, asked: Asked::default(), next: 0 }
    }
}

impl Writer for Messages {
    fn begin(&mut self, first: First, out: &mut Vec<u8>) {
        let mut usage = response::usage(&first.usage);
        usage["output_tokens"] = 0.into();
        let message = json!({"id": self.id, "type": "message", "role": "assistant", "model": self.asked.model,
            "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage});
        emit(out, &json!({"type": "message_start", "message": message}));
    }

    fn open(&mut self, kind: Kind, call: Option<NewCall<'_>>, out: &mut Vec<u8>) {
        let block = match (kind, call) {
            (Kind::Words, _) => json!({"type": "text", "text": ""}),
            (Kind::Thoughts, _) => json!({"type": "thinking", "thinking": "", "signature": ""}),
            (Kind::Call, call) => {
                let (id, name) = call.map_or(("", ""), |call| (call.id, self.asked.names.back(call.name)));
                json!({"type": "tool_use", "id": escape(id), "name": name, "input": {}})
            }
        };
        emit(out, &json!({"type": "content_block_start", "index": self.next, "content_block": block}));
        self.next += 1;
    }

    /// What nearly every event of a stream is, written without a detour.
    fn delta(&mut self, kind: Kind, text: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(
            b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":",
        );
        write(out, &(self.next - 1));
        out.extend_from_slice(match kind {
            Kind::Words => br#","delta":{"type":"text_delta","text":"#,
            Kind::Thoughts => br#","delta":{"type":"thinking_delta","thinking":"#,
            Kind::Call => br#","delta":{"type":"input_json_delta","partial_json":"#,
        });
        string(out, text);
        out.extend_from_slice(b"}}\n\n");
    }

    fn close(&mut self, kind: Kind, _cut: bool, out: &mut Vec<u8>) {
        let index = self.next - 1;
        if kind == Kind::Thoughts {
            let delta = json!({"type": "signature_delta", "signature": ""});
            emit(out, &json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        emit(out, &json!({"type": "content_block_stop", "index": index}));
    }

    fn end(&mut self, finish: &Finish, usage: &Usage, out: &mut Vec<u8>) {
        let (reason, text) = response::stop(finish, &self.asked.stop_sequences);
        let delta = json!({"stop_reason": reason, "stop_sequence": text});
        emit(out, &json!({"type": "message_delta", "delta": delta, "usage": response::usage(usage)}));
        emit(out, &json!({"type": "message_stop"}));
    }

    fn fail(&mut self, native: &NativeError, out: &mut Vec<u8>) {
        emit(out, &error::event(native, &self.asked.model));
    }
}

/// One event with its `event:` line; the payload's `type` names it.
fn emit(out: &mut Vec<u8>, payload: &Value) {
    event(out, payload["type"].as_str().unwrap_or_default(), payload);
}

/// What keeps a client patient.
pub(crate) fn ping() -> Vec<u8> {
    let mut out = Vec::new();
    emit(&mut out, &json!({"type": "ping"}));
    out
}

#[cfg(test)]
mod tests;
