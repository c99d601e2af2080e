//! Answers that are told while they come.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};

use super::{Frame, logprobs::logprobs};
use crate::api::{
    answer::{Answer, Drawn, Part, Piece, Usage, together},
    sse,
};

/// What has been told so far.
struct Told {
    frame: Frame,
    /// Calls of each answer.
    calls: Vec<usize>,
    /// Answers that have ended.
    usages: Vec<(usize, Usage)>,
}

impl Frame {
    fn chunk(&self, index: usize, delta: Value, tokens: &[Drawn]) -> Value {
        let logprobs = match &self.logprobs {
            Some(text) if !tokens.is_empty() => logprobs(Some(&text.tokenizer), tokens),
            _ => Value::Null,
        };
        let mut choice =
            json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": null });
        if self.prompt.is_some() && !tokens.is_empty() {
            choice["token_ids"] = tokens.iter().map(|drawn| drawn.id).collect();
        }
        let mut chunk = self.fill("chat.completion.chunk", json!([choice]));
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }
}

/// The roles, the words and calls as they come, the reasons for the ends, usage where it was asked for, `[DONE]`.
pub(super) fn chunks(answers: Vec<Answer>, frame: Frame) -> impl Stream<Item = Bytes> + Send {
    let mut roles = Vec::new();
    for index in 0..answers.len() {
        let mut role = frame.chunk(index, json!({ "role": "assistant", "content": "" }), &[]);
        if let Some(prompt) = frame.prompt.as_ref().filter(|_| index == 0) {
            role["prompt_token_ids"] = prompt.as_slice().into();
        }
        roles.extend_from_slice(&sse::event(&role));
    }
    let told = Told { frame, calls: vec![0; answers.len()], usages: Vec::new() };
    let rest = stream::unfold(Some((together(answers), told)), |state| async move {
        let (mut parts, mut told) = state?;
        let (index, part) = parts.next().await?;
        match part {
            Ok(part) => {
                let bytes = told.tell(index, part);
                let more = told.usages.len() < told.calls.len();
                Some((bytes, more.then_some((parts, told))))
            }
            // The status has gone out: the error is an event, and the stream ends without [DONE].
            Err(error) => Some((sse::event(&error.to_wire()), None)),
        }
    });
    stream::once(async move { Bytes::from(roles) }).chain(rest)
}

impl Told {
    fn tell(&mut self, index: usize, part: Part) -> Bytes {
        let mut bytes = Vec::new();
        match part {
            Part::Prompt(_) => {}
            Part::Said(pieces, tokens) => {
                // The tokens are those of all pieces together: they come with the first.
                let mut tokens = tokens.as_slice();
                if pieces.is_empty() && self.tells_tokens() {
                    bytes.extend_from_slice(&sse::event(&self.frame.chunk(index, json!({}), tokens)));
                }
                for piece in pieces {
                    let delta = self.delta(index, piece);
                    bytes.extend_from_slice(&sse::event(&self.frame.chunk(index, delta, tokens)));
                    tokens = &[];
                }
            }
            Part::End(end) => {
                let mut last = self.frame.chunk(index, json!({}), &[]);
                last["choices"][0]["finish_reason"] = end.reason.into();
                last["choices"][0]["stop_reason"] = end.stop;
                bytes.extend_from_slice(&sse::event(&last));
                self.usages.push((0, end.usage));
                if self.usages.len() == self.calls.len() {
                    bytes.extend_from_slice(&self.last());
                }
            }
        }
        bytes.into()
    }

    fn tells_tokens(&self) -> bool {
        self.frame.logprobs.is_some() || self.frame.prompt.is_some()
    }

    fn delta(&mut self, index: usize, piece: Piece) -> Value {
        let number = &mut self.calls[index];
        match piece {
            Piece::Text(text) => json!({ "content": text }),
            Piece::Thought(text) => json!({ "reasoning_content": text }),
            Piece::Call { id, name } => {
                *number += 1;
                let function = json!({ "name": name, "arguments": "" });
                json!({ "tool_calls": [{ "index": *number - 1, "id": id, "type": "function", "function": function }] })
            }
            Piece::Arguments(text) => {
                let at = number.saturating_sub(1);
                json!({ "tool_calls": [{ "index": at, "function": { "arguments": text } }] })
            }
        }
    }

    fn last(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.frame.include_usage {
            let mut usage = self.frame.fill("chat.completion.chunk", json!([]));
            usage["usage"] = Usage::told(&self.usages);
            bytes.extend_from_slice(&sse::event(&usage));
        }
        bytes.extend_from_slice(&sse::done());
        bytes
    }
}
