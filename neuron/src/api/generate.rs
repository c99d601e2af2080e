//! From a prompt to an answer as text: admission, the engine's tokens, UTF-8, stop strings.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    App,
    error::ApiError,
    params::Params,
    remember::Remember,
    stop::{Matched, StopMatcher},
};
use crate::{
    device::Seat,
    engine::{Event, Finish, Generation},
    registry::Ready,
    tokenizer::TextStream,
};

/// An answer while it comes.
pub(super) struct Answer {
    ready: Arc<Ready>,
    events: mpsc::Receiver<Event>,
    /// Taken off the channel before anybody asked for it.
    first: Option<Event>,
    text: TextStream,
    stops: StopMatcher,
    prompt_tokens: usize,
    /// Of those, how many were in the cache.
    cached: usize,
    tokens: usize,
    /// Comes after the text that was held back.
    end: Option<End>,
    over: bool,
    /// Takes note of the conversation.
    pub(super) remember: Option<Remember>,
}

/// A part of an answer. The last is `End`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    /// Never empty.
    Text(String),
    End(End),
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct End {
    /// OpenAI's word: `stop` or `length`.
    pub(super) reason: &'static str,
    /// The stop string that was met.
    pub(super) stop: Option<String>,
    pub(super) usage: Value,
}

impl Answer {
    /// A place in the model's queue. It comes before any work for the request, so that the queue bounds that too.
    pub(super) fn admit(app: &App, ready: &Ready) -> Result<Seat, ApiError> {
        let seat = ready.stats.admit(app.registry.config.engine.max_queue_depth);
        seat.ok_or_else(|| ApiError::overloaded("too many requests wait for this model already"))
    }

    /// Waits for the first token, so that every refusal is still a status of its own. `param`: the field
    /// that the prompt came from.
    pub(super) async fn start(
        app: &App,
        ready: Arc<Ready>,
        seat: Seat,
        prompt: Vec<u32>,
        param: &str,
        params: &Params,
    ) -> Result<Self, ApiError> {
        let engine = &app.registry.config.engine;
        let prompt_tokens = prompt.len();
        let window = ready.context;
        let max_tokens = room(param, prompt_tokens, window, params.max_tokens, engine.default_max_tokens)?;
        let generation = Generation {
            model: ready.key,
            prompt,
            max_tokens,
            sampling: params.sampling.clone(),
            end: Arc::clone(&ready.end),
            ignore_end: params.ignore_end,
            caller: Arc::clone(&params.caller),
        };
        let mut events = app.registry.device.generate(generation, seat, engine.queue_timeout)?;
        let first = match events.recv().await {
            None => return Err(ApiError::stopping()),
            Some(Event::Failed(failure)) => return Err(ApiError::failure(&params.model, &failure)),
            first => first,
        };
        Ok(Self {
            ready,
            events,
            first,
            text: TextStream::default(),
            stops: StopMatcher::new(params.stop.clone()),
            prompt_tokens,
            cached: 0,
            tokens: 0,
            end: None,
            over: false,
            remember: None,
        })
    }

    /// The next part; `None` after the last. Dropping the answer stops the engine within a step.
    pub(super) async fn next(&mut self) -> Option<Result<Part, ApiError>> {
        if let Some(end) = self.end.take() {
            return self.end_with(Ok(Part::End(end)));
        }
        while !self.over {
            let event = match self.first.take() {
                Some(event) => Some(event),
                None => self.events.recv().await,
            };
            match event {
                None => return self.end_with(Err(ApiError::stopping())),
                Some(Event::Failed(failure)) => {
                    return self.end_with(Err(ApiError::failure(&self.ready.id, &failure)));
                }
                Some(Event::Done(finish, timings)) => {
                    self.tokens = timings.tokens;
                    return self.finish(finish);
                }
                Some(Event::Begun { cached }) => self.cached = cached,
                Some(Event::Token(token)) => {
                    self.tokens += 1;
                    if let Some(remember) = &mut self.remember {
                        remember.token(token);
                    }
                    let text = self.text.push(self.ready.text.tokenizer.piece(token));
                    match self.stops.push(&text) {
                        Matched::Text(text) if text.is_empty() => {}
                        Matched::Text(text) => return Some(Ok(self.part(text))),
                        Matched::Stop(text, which) => return self.stop(text, which),
                    }
                }
            }
        }
        None
    }

    /// The engine is done: what was held back comes first, then the end.
    fn finish(&mut self, finish: Finish) -> Option<Result<Part, ApiError>> {
        let rest = self.text.finish();
        let text = match self.stops.push(&rest) {
            Matched::Text(text) => text + &self.stops.finish(),
            Matched::Stop(text, which) => return self.stop(text, which),
        };
        let reason = match finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
        };
        self.last(text, End { reason, stop: None, usage: self.usage() })
    }

    fn stop(&mut self, text: String, which: usize) -> Option<Result<Part, ApiError>> {
        // No further token is of use; the engine sees the closed channel at its next step.
        self.events.close();
        let stop = Some(self.stops.stop(which).to_owned());
        self.last(text, End { reason: "stop", stop, usage: self.usage() })
    }

    fn last(&mut self, text: String, end: End) -> Option<Result<Part, ApiError>> {
        if text.is_empty() {
            return self.end_with(Ok(Part::End(end)));
        }
        self.end = Some(end);
        Some(Ok(self.part(text)))
    }

    fn part(&mut self, text: String) -> Part {
        if let Some(remember) = &mut self.remember {
            remember.text(&text);
        }
        Part::Text(text)
    }

    fn end_with(&mut self, last: Result<Part, ApiError>) -> Option<Result<Part, ApiError>> {
        self.over = true;
        if let (Ok(_), Some(remember)) = (&last, self.remember.take()) {
            remember.finish();
        }
        Some(last)
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
            "prompt_tokens_details": { "cached_tokens": self.cached },
        })
    }

    /// The whole answer at once.
    pub(super) async fn collect(mut self) -> Result<(String, End), ApiError> {
        let mut whole = String::new();
        while let Some(part) = self.next().await {
            match part? {
                Part::Text(text) => whole.push_str(&text),
                Part::End(end) => return Ok((whole, end)),
            }
        }
        Err(ApiError::stopping())
    }
}

/// Tokens that the answer may have: what was asked for, as far as the window has room.
fn room(
    param: &str,
    prompt: usize,
    context: u64,
    asked: Option<usize>,
    default: u64,
) -> Result<usize, ApiError> {
    let window = usize::try_from(context).unwrap_or(usize::MAX);
    if prompt == 0 {
        return Err(ApiError::invalid(param, "invalid_value", "the prompt has no tokens"));
    }
    if prompt >= window {
        return Err(ApiError::context_length(param, "has", prompt as u64, context));
    }
    let default = if default == 0 { usize::MAX } else { usize::try_from(default).unwrap_or(usize::MAX) };
    Ok(asked.unwrap_or(default).min(window - prompt))
}

#[cfg(test)]
mod tests {
    use neuron_protocol::ErrorBody;

    use super::*;

    #[test]
    fn an_answer_gets_what_was_asked_for_or_what_is_left() {
        let check = |prompt, asked, default, expected| {
            let got = room("prompt", prompt, 100, asked, default).map_err(|e: ApiError| {
                let ErrorBody { code, prompt_len, max, .. } = e.body;
                (code.unwrap(), prompt_len, max)
            });
            assert_eq!(got, expected, "{prompt} {asked:?} {default}");
        };
        check(40, Some(10), 0, Ok(10));
        check(40, Some(90), 0, Ok(60));
        check(40, None, 0, Ok(60));
        check(40, None, 20, Ok(20));
        check(99, Some(9), 0, Ok(1));
        check(100, Some(1), 0, Err(("context_length_exceeded".to_owned(), Some(100), Some(100))));
        check(0, None, 0, Err(("invalid_value".to_owned(), None, None)));
    }
}
