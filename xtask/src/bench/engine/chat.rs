//! A conversation over `/v1/chat/completions`, streamed, as both servers understand it.

use super::{server, weights};
use crate::sse;
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::io::Read;
use std::time::Instant;

/// A conversation so far. Every turn sends all of it.
pub(super) struct Chat {
    url: String,
    agent: ureq::Agent,
    messages: Vec<Value>,
}

/// What a turn took.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Turn {
    /// Seconds from the request to the first word.
    pub(super) ttft: f64,
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    text: String,
}

impl Chat {
    /// `system` may be empty: then the model's template has its own say.
    pub(super) fn new(url: &str, system: &str) -> Self {
        let system = (!system.is_empty()).then(|| json!({"role": "system", "content": system}));
        let url = format!("{url}/v1/chat/completions");
        Self { url, agent: server::agent(), messages: system.into_iter().collect() }
    }

    /// Asks, and keeps the answer, which has exactly `tokens` tokens.
    pub(super) fn ask(&mut self, question: &str, tokens: u64) -> Result<Turn> {
        self.messages.push(json!({"role": "user", "content": question}));
        let body = json!({
            "model": weights::ID, "messages": self.messages, "max_tokens": tokens, "ignore_eos": true,
            "temperature": 0, "stream": true, "stream_options": {"include_usage": true},
        });
        let body = body.to_string();
        let started = Instant::now();
        let mut response =
            self.agent.post(&self.url).header("content-type", "application/json").send(body)?;
        let status = response.status();
        if !status.is_success() {
            bail!("the server answered {status}: {}", response.body_mut().read_to_string()?);
        }
        let turn = read(response.into_body().into_reader(), started)?;
        if turn.completion_tokens != tokens {
            bail!("{} tokens came, not {tokens}: is ignore_eos understood?", turn.completion_tokens);
        }
        self.messages.push(json!({"role": "assistant", "content": turn.text}));
        Ok(turn)
    }
}

fn read(stream: impl Read, started: Instant) -> Result<Turn> {
    let mut turn = Turn::default();
    sse::events(stream, |event| {
        let words = event["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        if turn.text.is_empty() && !words.is_empty() {
            turn.ttft = started.elapsed().as_secs_f64();
        }
        turn.text.push_str(words);
        if let Some(tokens) = event["usage"]["completion_tokens"].as_u64() {
            turn.completion_tokens = tokens;
            turn.prompt_tokens = event["usage"]["prompt_tokens"].as_u64().unwrap_or_default();
        }
        Ok(())
    })?;
    if turn.text.is_empty() {
        bail!("the answer has no words");
    }
    Ok(turn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_usage_are_read_from_a_stream() {
        let stream = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n\
                      data: {\"choices\":[{\"delta\":{\"content\":\"a \"}}],\"usage\":null}\n\n\
                      : silence\n\n\
                      data: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\n\
                      data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n\
                      data: [DONE]\n\n";
        let turn = read(stream.as_bytes(), Instant::now()).unwrap();
        assert_eq!((turn.text.as_str(), turn.prompt_tokens, turn.completion_tokens), ("a b", 7, 2));
    }

    #[test]
    fn a_stream_that_breaks_off_or_is_empty_is_an_error() {
        let check = |stream: &str| assert!(read(stream.as_bytes(), Instant::now()).is_err(), "{stream}");
        check(
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"error\":{\"message\":\"x\"}}\n\n",
        );
        check("data: [DONE]\n\n");
        check("data: {\n\n");
    }
}
