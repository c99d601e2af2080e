//! What a client asked and was answered, for the request's story, where `gateway.keep_prompts` says so.

use serde::Serialize;
use std::borrow::Cow;

/// Bytes of each part that are kept.
const MOST: usize = 32 << 10;

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
    /// Names of called tools, each with its arguments; of a stream.
    #[serde(skip_serializing_if = "Part::is_empty")]
    calls: Part,
}

/// The beginning of a text, and how long all of it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Part {
    text: String,
    bytes: usize,
}

impl Part {
    fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn push(&mut self, more: &[u8]) {
        let room = MOST.saturating_sub(self.bytes).min(more.len());
        self.bytes += more.len();
        // Not in the middle of a character, which the next piece would not mend.
        let end = (0..4).map(|back| room.saturating_sub(back)).find(|&end| {
            end == more.len() || more.get(end).is_none_or(|byte| byte & 0b1100_0000 != 0b1000_0000)
        });
        self.text += &String::from_utf8_lossy(&more[..end.unwrap_or(room)]);
    }
}

/// What a piece of a stream is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Answer,
    Reasoning,
    /// The name of a tool that is called.
    Called,
    Arguments,
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

    pub(super) fn add(&mut self, said: Said, words: Cow<'_, str>) {
        let part = match said {
            Said::Answer => &mut self.answered,
            Said::Reasoning => &mut self.reasoning,
            Said::Called if !self.calls.is_empty() => {
                self.calls.push(b"\n");
                &mut self.calls
            }
            Said::Called | Said::Arguments => &mut self.calls,
        };
        part.push(words.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_its_length_told() {
        let mut part = Part::default();
        part.push(&vec![b'a'; MOST - 1]);
        part.push("äö".as_bytes());
        part.push(b"more");
        assert_eq!((part.text.len(), part.bytes), (MOST - 1, MOST - 1 + 4 + 4));
        let mut whole = Part::default();
        whole.push("ä".as_bytes());
        whole.push(b"\xff");
        assert_eq!((whole.text.as_str(), whole.bytes), ("ä\u{fffd}", 3));
        let transcript = Transcript::of(&"€".repeat(MOST).into_bytes());
        assert_eq!(transcript.asked.text.len(), MOST / 3 * 3);
        assert!(!transcript.asked.text.contains('\u{fffd}'));
    }

    #[test]
    fn calls_are_told_apart() {
        let mut transcript = Transcript::default();
        for (said, words) in [
            (Said::Reasoning, "hm"),
            (Said::Answer, "Let me "),
            (Said::Answer, "look."),
            (Said::Called, "weather"),
            (Said::Arguments, "{\"city\":"),
            (Said::Arguments, "\"Paris\"}"),
            (Said::Called, "time"),
            (Said::Arguments, "{}"),
        ] {
            transcript.add(said, words.into());
        }
        assert_eq!(transcript.answered.text, "Let me look.");
        assert_eq!(transcript.reasoning.text, "hm");
        assert_eq!(transcript.calls.text, "weather{\"city\":\"Paris\"}\ntime{}");
    }
}
