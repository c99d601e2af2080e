//! A native stream as Anthropic's: message_start, blocks one after another, message_delta, message_stop.

use crate::{error, response};
use serde_json::{Value, json};
use std::borrow::Cow;

mod blocks;
mod word;

use blocks::{Blocks, Kind};

pub struct Stream {
    id: String,
    model: String,
    state: State,
    blocks: Blocks,
    /// Stop reason and stop text, held until the usage is known.
    stop: Option<(&'static str, Option<String>)>,
    usage: Value,
}

#[derive(PartialEq)]
enum State {
    Waiting,
    Open,
    Ended,
}

impl Stream {
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            model: String::new(),
            state: State::Waiting,
            blocks: Blocks::new(id),
            stop: None,
            usage: Value::Null,
        }
    }

    pub fn set_model(&mut self, model: &str) {
        self.model = model.to_owned();
    }

    /// Whole native events; comments and fields other than `data` mean nothing here.
    pub fn events(&mut self, sse: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(sse.len());
        let mut data: Cow<'_, [u8]> = Cow::Borrowed(&[]);
        let (mut rest, mut end) = (sse, true);
        while end {
            let line;
            (line, rest, end) = match memchr::memchr(b'\n', rest) {
                Some(at) => (&rest[..at], &rest[at + 1..], true),
                None => (rest, &[][..], false),
            };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                if !data.is_empty() {
                    self.event(&data, &mut out);
                    data = Cow::Borrowed(&[]);
                }
            } else if let Some(more) = line.strip_prefix(b"data:") {
                let more = more.strip_prefix(b" ").unwrap_or(more);
                if data.is_empty() {
                    data = Cow::Borrowed(more);
                } else {
                    data.to_mut().push(b'\n');
                    data.to_mut().extend_from_slice(more);
                }
            }
        }
        out
    }

    /// Ends the stream where it is still open: well if the model had stopped, else with an error.
    pub fn finish(&mut self, _clean: bool) -> Vec<u8> {
        let mut out = Vec::new();
        self.end(&mut out);
        out
    }

    fn event(&mut self, data: &[u8], out: &mut Vec<u8>) {
        if self.state == State::Ended {
            return;
        }
        if data == b"[DONE]" {
            return self.end(out);
        }
        if self.state == State::Open
            && self.blocks.goes_on(Kind::Text)
            && let Some(words) = word::of(data)
        {
            return self.blocks.text(&words, out);
        }
        match serde_json::from_slice::<Value>(data) {
            Ok(chunk) if !chunk["error"].is_null() => self.fail(&chunk["error"], out),
            Ok(chunk) => self.chunk(&chunk, out),
            Err(_) => self.fail(&Value::Null, out),
        }
    }

    fn chunk(&mut self, chunk: &Value, out: &mut Vec<u8>) {
        if self.state == State::Waiting {
            self.start(chunk, out);
        }
        if chunk["usage"].is_object() {
            self.usage = chunk["usage"].clone();
        }
        if let Some(choice) = chunk["choices"].get(0) {
            let delta = &choice["delta"];
            if let Some(thoughts) = response::reasoning(delta) {
                self.blocks.delta(Kind::Thinking, thoughts, out);
            }
            if let Some(text) = delta["content"].as_str().filter(|t| !t.is_empty()) {
                self.blocks.delta(Kind::Text, text, out);
            }
            for (at, call) in delta["tool_calls"].as_array().into_iter().flatten().enumerate() {
                self.blocks.call(call, at, out);
            }
            if choice["finish_reason"].is_string() {
                let (reason, text) = response::stop(choice, self.blocks.called());
                self.stop = Some((reason, text.map(str::to_owned)));
            }
        }
        if self.stop.is_some() && chunk["usage"].is_object() {
            self.end(out);
        }
    }

    fn start(&mut self, chunk: &Value, out: &mut Vec<u8>) {
        self.state = State::Open;
        let mut usage = response::usage(&chunk["usage"]);
        usage["output_tokens"] = 0.into();
        let message = json!({"id": self.id, "type": "message", "role": "assistant", "model": self.model,
            "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage});
        emit(out, &json!({"type": "message_start", "message": message}));
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.state == State::Ended {
            return;
        }
        let Some((reason, text)) = self.stop.take() else {
            return self.fail(&Value::Null, out);
        };
        self.blocks.close_all(out);
        let usage = response::usage(&self.usage);
        emit(
            out,
            &json!({"type": "message_delta", "usage": usage,
            "delta": {"stop_reason": reason, "stop_sequence": text}}),
        );
        emit(out, &json!({"type": "message_stop"}));
        self.state = State::Ended;
    }

    fn fail(&mut self, native: &Value, out: &mut Vec<u8>) {
        emit(out, &error::event(native, "the model's stream broke off before its end; try again"));
        self.state = State::Ended;
    }
}

/// One event with its `event:` line; the payload's `type` names it.
fn emit(out: &mut Vec<u8>, payload: &Value) {
    let name = payload["type"].as_str().unwrap_or_default();
    out.extend_from_slice(format!("event: {name}\ndata: {payload}\n\n").as_bytes());
}

/// What keeps a client patient.
pub fn ping() -> Vec<u8> {
    let mut out = Vec::new();
    emit(&mut out, &json!({"type": "ping"}));
    out
}

#[cfg(test)]
mod tests;
