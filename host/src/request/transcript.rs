//! What a client asked and was answered, for the request's story, where `gateway.keep_prompts` says so.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Bytes of each part that are kept.
const MOST: usize = 32 << 10;
/// Calls of one answer that are kept.
const CALLS: usize = 32;

/// Lives in memory, with its request's record, and goes nowhere else.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Transcript {
    /// The request's body, in the client's own dialect.
    asked: Part,
    /// Of a stream the words of its first choice; otherwise the answer's body.
    answered: Part,
    /// Thoughts, of a stream.
    #[serde(skip_serializing_if = "Part::is_empty")]
    reasoning: Part,
    /// What a stream's model would not do.
    #[serde(skip_serializing_if = "Part::is_empty")]
    refusal: Part,
    /// Called tools, of a stream, by their place.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    calls: BTreeMap<u64, Call>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Call {
    name: String,
    arguments: Part,
}

/// The beginning of a text, and how many bytes all of it has.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Part {
    text: String,
    bytes: usize,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

impl Part {
    fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn push(&mut self, more: &[u8]) {
        self.bytes += more.len();
        if self.cut {
            return;
        }
        let room = MOST - self.text.len();
        // What is no UTF-8 becomes longer.
        self.text += &String::from_utf8_lossy(&more[..more.len().min(room)]);
        self.cut = more.len() > room || self.text.len() > MOST;
        if self.cut {
            let whole = self.text.trim_end_matches('\u{fffd}').len();
            let end = (0..=whole.min(MOST)).rev().find(|&at| self.text.is_char_boundary(at));
            self.text.truncate(end.unwrap_or(0));
        }
    }
}

impl Transcript {
    pub(super) fn of(body: &[u8]) -> Box<Self> {
        let mut transcript = Box::<Self>::default();
        transcript.asked.push(body);
        transcript
    }

    /// A whole answer.
    pub(super) fn answered(&mut self, body: &[u8]) {
        self.answered.push(body);
    }

    /// A chunk of a stream in OpenAI's words, however untidy.
    pub(super) fn heard(&mut self, chunk: &[u8]) {
        let Ok(chunk) = serde_json::from_slice::<Value>(chunk) else { return };
        let choices = chunk["choices"].as_array().into_iter().flatten();
        for choice in choices.filter(|choice| choice["index"].as_u64().unwrap_or(0) == 0) {
            let delta = &choice["delta"];
            let thought = delta["reasoning_content"].as_str().or(delta["reasoning"].as_str());
            for (part, words) in [
                (&mut self.reasoning, thought),
                (&mut self.answered, delta["content"].as_str().or(choice["text"].as_str())),
                (&mut self.refusal, delta["refusal"].as_str()),
            ] {
                part.push(words.unwrap_or_default().as_bytes());
            }
            for (place, call) in delta["tool_calls"].as_array().into_iter().flatten().enumerate() {
                self.called(call["index"].as_u64().unwrap_or(place as u64), &call["function"]);
            }
            if delta["function_call"].is_object() {
                self.called(0, &delta["function_call"]);
            }
        }
    }

    fn called(&mut self, place: u64, function: &Value) {
        if self.calls.len() >= CALLS && !self.calls.contains_key(&place) {
            return;
        }
        let kept: usize = self.calls.values().map(|call| call.arguments.text.len()).sum();
        let call = self.calls.entry(place).or_default();
        // All of them together are one part.
        call.arguments.cut |= kept >= MOST;
        if call.name.is_empty() {
            call.name = function["name"].as_str().unwrap_or_default().chars().take(256).collect();
        }
        match &function["arguments"] {
            Value::String(piece) => call.arguments.push(piece.as_bytes()),
            Value::Null => {}
            whole => call.arguments.push(whole.to_string().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_long_text_is_cut_between_characters_and_its_length_told() {
        let mut part = Part::default();
        part.push(&vec![b'a'; MOST - 1]);
        part.push("äö".as_bytes());
        part.push(b"more");
        assert_eq!((part.text.len(), part.bytes, part.cut), (MOST - 1, MOST - 1 + 4 + 4, true));
        let mut whole = Part::default();
        whole.push("ä".as_bytes());
        whole.push(b"\xff");
        assert_eq!((whole.text.as_str(), whole.bytes, whole.cut), ("ä\u{fffd}", 3, false));
        let transcript = Transcript::of(&"€".repeat(MOST).into_bytes());
        assert_eq!(transcript.asked.text.len(), MOST / 3 * 3);
        // What is no text is no longer either.
        for bytes in [0x80, 0xff, 0xc3, 0xf0] {
            let mut noise = Part::default();
            (0..9).for_each(|_| noise.push(&vec![bytes; MOST / 4]));
            assert!(noise.text.len() <= MOST && noise.cut && noise.bytes == MOST / 4 * 9);
        }
        let mut exact = Part::default();
        exact.push(&vec![b'a'; MOST]);
        assert!(!exact.cut && exact.text.len() == MOST);
    }

    #[test]
    fn untidy_streams_are_added_up() {
        let mut transcript = Transcript::default();
        for delta in [
            json!({"role": "assistant", "content": null, "reasoning": "hm"}),
            json!({"content": "Let me "}),
            json!({"content": "look.", "tool_calls": null}),
            // Names again, empty names, two at once, and one that is none.
            json!({"tool_calls": [{"index": 0, "function": {"name": "look", "arguments": "{\"at\":"}}]}),
            json!({"tool_calls": [{"index": 1, "function": {"name": "time", "arguments": {"in": "UTC"}}},
                                  {"index": 0, "function": {"name": "", "arguments": "1"}}]}),
            json!({"tool_calls": [{"index": 0, "function": {"name": "look", "arguments": "}"}}, {"function": null}, 7]}),
            json!({"refusal": "No."}),
        ] {
            transcript.heard(json!({"choices": [{"delta": delta}]}).to_string().as_bytes());
        }
        for other in [
            "[]",
            "7",
            "{\"choices\":{}}",
            "{\"choices\":[{\"index\":1,\"delta\":{\"content\":\"x\"}}]}",
            "{",
        ] {
            transcript.heard(other.as_bytes());
        }
        assert_eq!(transcript.answered.text, "Let me look.");
        assert_eq!(transcript.reasoning.text, "hm");
        assert_eq!(transcript.refusal.text, "No.");
        let calls: Vec<(&str, &str)> =
            transcript.calls.values().map(|call| (&*call.name, &*call.arguments.text)).collect();
        assert_eq!(calls[..2], [("look", "{\"at\":1}"), ("time", "{\"in\":\"UTC\"}")]);
        let many: Vec<Value> =
            (0..99).map(|index| json!({"index": index, "function": {"name": "f"}})).collect();
        transcript.heard(json!({"choices": [{"delta": {"tool_calls": many}}]}).to_string().as_bytes());
        assert_eq!(transcript.calls.len(), CALLS);
        let long = "x".repeat(MOST);
        for index in 0..CALLS {
            let call = json!({"index": index, "function": {"arguments": long}});
            transcript.heard(json!({"choices": [{"delta": {"tool_calls": [call]}}]}).to_string().as_bytes());
        }
        let kept: usize = transcript.calls.values().map(|call| call.arguments.text.len()).sum();
        assert!(kept <= 2 * MOST && transcript.calls[&9].arguments.cut, "{kept}");
    }
}
