//! One answer of a plain completion as it fills.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{
    api::{
        answer::{Drawn, End, Part, Piece},
        chat::{finite, spelled},
        params::Params,
    },
    engine::Logprobs,
    tokenizer::Tokenizer,
};

/// What has come and was not told yet, and what is needed to tell it.
pub(super) struct Choice {
    number: usize,
    prompt: Arc<[u32]>,
    /// The prompt stands in front, and has not been told.
    echo: bool,
    wants_logprobs: bool,
    wants_ids: bool,
    /// The prompt's ids have not been told.
    owes_prompt_ids: bool,
    text: String,
    prompt_logprobs: Vec<Logprobs>,
    tokens: Vec<Drawn>,
    end: Option<End>,
    /// Characters that were told of.
    offset: usize,
}

impl Choice {
    pub(super) fn new(number: usize, echo: bool, params: &Params, prompt: Arc<[u32]>) -> Self {
        Self {
            number,
            prompt,
            echo,
            wants_logprobs: params.logprobs.is_some(),
            wants_ids: params.token_ids,
            owes_prompt_ids: params.token_ids,
            text: String::new(),
            prompt_logprobs: Vec::new(),
            tokens: Vec::new(),
            end: None,
            offset: 0,
        }
    }

    /// Answers with the same number share a prompt.
    pub(super) fn prompt_number(&self) -> usize {
        self.number
    }

    pub(super) fn take(&mut self, part: Part) {
        match part {
            Part::Prompt(logprobs) => self.prompt_logprobs.extend(logprobs),
            Part::Said(pieces, tokens) => {
                for piece in pieces {
                    // Without a template there are neither thoughts nor calls.
                    if let Piece::Text(text) = piece {
                        self.text.push_str(&text);
                    }
                }
                self.tokens.extend(tokens);
            }
            Part::End(end) => self.end = Some(end),
        }
    }

    /// Whether there is something to be told.
    pub(super) fn has_news(&self) -> bool {
        !self.text.is_empty() || self.end.is_some() || (self.wants_ids && !self.tokens.is_empty())
    }

    /// What has come since it was last told.
    pub(super) fn told(&mut self, index: usize, tokenizer: &Tokenizer) -> Value {
        let echo = std::mem::take(&mut self.echo);
        let mut text = if echo { tokenizer.decode(&self.prompt) } else { String::new() };
        text += &std::mem::take(&mut self.text);
        let tokens = std::mem::take(&mut self.tokens);
        let logprobs =
            if self.wants_logprobs { self.logprobs(echo, &tokens, tokenizer) } else { Value::Null };
        let mut choice = json!({
            "index": index, "text": text, "logprobs": logprobs,
            "finish_reason": self.end.as_ref().map(|end| end.reason),
            "stop_reason": self.end.as_ref().map(|end| end.stop.clone()),
        });
        if self.wants_ids {
            choice["token_ids"] = tokens.iter().map(|drawn| drawn.id).collect();
            if std::mem::take(&mut self.owes_prompt_ids) {
                choice["prompt_token_ids"] = self.prompt.iter().copied().collect();
            }
        }
        choice
    }

    fn logprobs(&mut self, echo: bool, drawn: &[Drawn], tokenizer: &Tokenizer) -> Value {
        let before = if echo { &*self.prompt } else { &[] };
        let told = std::mem::take(&mut self.prompt_logprobs);
        // The first token of a prompt follows nothing.
        let before = before.iter().copied().zip([None].into_iter().chain(told.iter().map(Some)));
        let drawn = drawn.iter().map(|drawn| (drawn.id, drawn.logprobs.as_deref()));
        let (mut texts, mut logprobs, mut tops, mut offsets) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (id, told) in before.chain(drawn) {
            let text = spelling(tokenizer, id);
            offsets.push(self.offset);
            self.offset += text.chars().count();
            texts.push(text);
            logprobs.push(told.map(|told| finite(told.chosen)));
            tops.push(told.filter(|told| !told.top.is_empty()).map(|told| {
                let top = told.top.iter();
                top.map(|(id, logprob)| (spelling(tokenizer, *id), json!(finite(*logprob))))
                    .collect::<Map<_, _>>()
            }));
        }
        json!({ "tokens": texts, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets })
    }
}

fn spelling(tokenizer: &Tokenizer, id: u32) -> String {
    String::from_utf8_lossy(&spelled(tokenizer, id)).into_owned()
}
