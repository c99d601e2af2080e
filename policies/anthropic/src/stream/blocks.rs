//! The content blocks of a streamed message: dense indices, one open at a time.

use super::emit;
use crate::response::tool_id;
use serde_json::{Value, json};
use std::io::Write;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Thinking,
}

enum Open {
    Prose(Kind),
    /// Position in `calls`.
    Call(usize),
}

/// A tool call while it arrives. One streams; those behind it are held until it is done.
struct Call {
    native_index: u64,
    id: Option<String>,
    name: String,
    held: String,
}

pub(super) struct Blocks {
    message_id: String,
    open: Option<Open>,
    next_index: u64,
    calls: Vec<Call>,
    /// Calls before this one have had their blocks.
    current: usize,
}

impl Blocks {
    pub(super) fn new(message_id: &str) -> Self {
        Self { message_id: message_id.to_owned(), open: None, next_index: 0, calls: Vec::new(), current: 0 }
    }

    pub(super) fn called(&self) -> bool {
        !self.calls.is_empty()
    }

    /// `text` is not empty.
    pub(super) fn delta(&mut self, kind: Kind, text: &str, out: &mut Vec<u8>) {
        if !self.goes_on(kind) {
            self.drain_calls(out);
            self.close(out);
            let block = match kind {
                Kind::Text => json!({"type": "text", "text": ""}),
                Kind::Thinking => json!({"type": "thinking", "thinking": "", "signature": ""}),
            };
            self.start(Open::Prose(kind), &block, out);
        }
        let delta = match kind {
            Kind::Text => json!({"type": "text_delta", "text": text}),
            Kind::Thinking => json!({"type": "thinking_delta", "thinking": text}),
        };
        self.emit_delta(&delta, out);
    }

    /// Whether prose of this kind needs no new block.
    pub(super) fn goes_on(&self, kind: Kind) -> bool {
        matches!(self.open, Some(Open::Prose(open)) if open == kind)
    }

    /// [`Self::delta`] of text that goes on: what nearly every event of a stream is, written without a detour.
    pub(super) fn text(&self, text: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(
            b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":",
        );
        // Into memory: neither can fail.
        write!(out, "{}", self.next_index - 1).unwrap_or_default();
        out.extend_from_slice(br#","delta":{"type":"text_delta","text":"#);
        serde_json::to_writer(&mut *out, text).unwrap_or_default();
        out.extend_from_slice(b"}}\n\n");
    }

    /// One entry of a delta's `tool_calls`, `at` its place there, which serves where it has no index.
    pub(super) fn call(&mut self, native: &Value, at: usize, out: &mut Vec<u8>) {
        let native_index = native["index"].as_u64().unwrap_or(at as u64);
        let slot = self.calls.iter().position(|c| c.native_index == native_index).unwrap_or_else(|| {
            self.calls.push(Call { native_index, id: None, name: String::new(), held: String::new() });
            self.calls.len() - 1
        });
        let call = &mut self.calls[slot];
        if let Some(id) = native["id"].as_str().filter(|id| !id.is_empty()) {
            call.id.get_or_insert_with(|| id.to_owned());
        }
        let function = &native["function"];
        if call.name.is_empty() {
            call.name.push_str(function["name"].as_str().unwrap_or_default());
        }
        call.held.push_str(function["arguments"].as_str().unwrap_or_default());
        if slot > self.current
            && !self.calls[slot].name.is_empty()
            && matches!(self.open, Some(Open::Call(_)))
        {
            return; // held until the open call is done
        }
        self.advance(out);
    }

    /// Streams what the current call holds.
    fn advance(&mut self, out: &mut Vec<u8>) {
        let slot = self.current;
        let Some(call) = self.calls.get_mut(slot).filter(|c| !c.name.is_empty()) else { return };
        let held = std::mem::take(&mut call.held);
        if !matches!(self.open, Some(Open::Call(open)) if open == slot) {
            let id = tool_id(call.id.as_deref(), &self.message_id, slot);
            let block = json!({"type": "tool_use", "id": id, "name": call.name, "input": {}});
            self.close(out);
            self.start(Open::Call(slot), &block, out);
        }
        if !held.is_empty() {
            self.emit_delta(&json!({"type": "input_json_delta", "partial_json": held}), out);
        }
    }

    /// Gives every call that came so far its block.
    fn drain_calls(&mut self, out: &mut Vec<u8>) {
        while self.current < self.calls.len() {
            self.advance(out);
            self.current += 1;
        }
    }

    pub(super) fn close_all(&mut self, out: &mut Vec<u8>) {
        self.drain_calls(out);
        self.close(out);
    }

    fn start(&mut self, open: Open, block: &Value, out: &mut Vec<u8>) {
        let index = self.next_index;
        emit(out, &json!({"type": "content_block_start", "index": index, "content_block": block}));
        self.open = Some(open);
        self.next_index += 1;
    }

    fn emit_delta(&self, delta: &Value, out: &mut Vec<u8>) {
        emit(out, &json!({"type": "content_block_delta", "index": self.next_index - 1, "delta": delta}));
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if let Some(open) = self.open.take() {
            if matches!(open, Open::Prose(Kind::Thinking)) {
                self.emit_delta(&json!({"type": "signature_delta", "signature": ""}), out);
            }
            emit(out, &json!({"type": "content_block_stop", "index": self.next_index - 1}));
        }
    }
}
