//! Answers that are told at once.

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{Frame, logprobs::logprobs};
use crate::api::{
    answer::{Answer, Drawn, End, Part, Piece, Usage, together},
    error::ApiError,
};

/// One answer as it fills.
#[derive(Default)]
struct Message {
    text: String,
    thoughts: String,
    calls: Vec<Value>,
    tokens: Vec<Drawn>,
    end: Option<End>,
}

impl Message {
    fn take(&mut self, piece: Piece) {
        match piece {
            Piece::Text(text) => self.text.push_str(&text),
            Piece::Thought(text) => self.thoughts.push_str(&text),
            Piece::Call { id, name } => {
                let function = json!({ "name": name, "arguments": "" });
                self.calls.push(json!({ "id": id, "type": "function", "function": function }));
            }
            Piece::Arguments(more) => {
                if let Some(Value::String(arguments)) =
                    self.calls.last_mut().map(|call| &mut call["function"]["arguments"])
                {
                    arguments.push_str(&more);
                }
            }
        }
    }

    fn choice(self, index: usize, frame: &Frame) -> Value {
        let tokenizer = frame.logprobs.as_ref().map(|text| &text.tokenizer);
        let logprobs = logprobs(tokenizer, &self.tokens);
        // Who only calls says nothing, rather than an empty text.
        let content = if self.text.trim().is_empty() && !self.calls.is_empty() {
            Value::Null
        } else {
            self.text.into()
        };
        let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
        if !self.thoughts.is_empty() {
            message["reasoning_content"] = self.thoughts.into();
        }
        if !self.calls.is_empty() {
            message["tool_calls"] = self.calls.into();
        }
        let mut choice = json!({
            "index": index, "message": message, "logprobs": logprobs,
            "finish_reason": self.end.as_ref().map(|end| end.reason),
            "stop_reason": self.end.map(|end| end.stop),
        });
        if frame.prompt.is_some() {
            choice["token_ids"] = self.tokens.iter().map(|drawn| drawn.id).collect();
        }
        choice
    }
}

pub(super) async fn whole(answers: Vec<Answer>, frame: &Frame) -> Result<Value, ApiError> {
    let mut messages: Vec<Message> = answers.iter().map(|_| Message::default()).collect();
    let mut parts = together(answers);
    while let Some((index, part)) = parts.next().await {
        let Some(message) = messages.get_mut(index) else { continue };
        match part? {
            Part::Prompt(_) => {}
            Part::Said(pieces, tokens) => {
                pieces.into_iter().for_each(|piece| message.take(piece));
                message.tokens.extend(tokens);
            }
            Part::End(end) => message.end = Some(end),
        }
    }
    let usages: Vec<(usize, Usage)> =
        messages.iter().filter_map(|m| Some((0, m.end.as_ref()?.usage))).collect();
    let choices: Vec<Value> =
        messages.into_iter().enumerate().map(|(index, message)| message.choice(index, frame)).collect();
    let mut whole = frame.fill("chat.completion", choices.into());
    if let Some(prompt) = &frame.prompt {
        whole["prompt_token_ids"] = prompt.as_slice().into();
    }
    whole["usage"] = Usage::told(&usages);
    Ok(whole)
}
