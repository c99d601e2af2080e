//! From a prompt to an answer: admission, the engine's tokens, UTF-8, thoughts, stop strings, calls of tools.

mod plan;
mod stop;
mod text;

use std::{collections::VecDeque, sync::Arc};

use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{App, error::ApiError, params::Params, remember::Remember};
use crate::{
    device::Seat,
    engine::{Event, Finish, Logprobs},
    registry::Ready,
};
pub(super) use plan::{Plan, prepare};
pub(super) use text::Piece;
use text::{Output, Taken};

/// An answer while it comes.
pub(super) struct Answer {
    ready: Arc<Ready>,
    events: mpsc::Receiver<Event>,
    /// Taken off the channel before anybody asked for it.
    first: Option<Event>,
    output: Output,
    usage: Usage,
    /// Parts that are ready.
    parts: VecDeque<Part>,
    over: bool,
    /// Takes note of the conversation.
    pub(super) remember: Option<Remember>,
}

/// Tokens of one answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) prompt: usize,
    /// Of those, how many were in the cache.
    pub(super) cached: usize,
    pub(super) tokens: usize,
    /// Of those, how many were thought.
    pub(super) thought: usize,
}

/// A token that was drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Drawn {
    pub(super) id: u32,
    /// Only where they were asked for.
    pub(super) logprobs: Option<Box<Logprobs>>,
}

/// A part of an answer. The last is `End`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    /// How likely the prompt's tokens were, from the second on.
    Prompt(Vec<Logprobs>),
    /// What is told, and the tokens that have been drawn since the last; either may be empty.
    Said(Vec<Piece>, Vec<Drawn>),
    End(End),
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct End {
    /// OpenAI's word.
    pub(super) reason: &'static str,
    /// The stop string or the token that was met.
    pub(super) stop: Value,
    pub(super) usage: Usage,
}

impl Usage {
    /// Of several answers, as OpenAI has it. `prompts`: answers with the same number share a prompt.
    pub(super) fn told(answers: &[(usize, Self)]) -> Value {
        let mut prompts: Vec<usize> = Vec::new();
        let mut sum = Self::default();
        for (prompt, usage) in answers {
            if !prompts.contains(prompt) {
                prompts.push(*prompt);
                sum.prompt += usage.prompt;
                // What one of them ran, the others found.
                let same = answers.iter().filter(|(other, _)| other == prompt);
                sum.cached += same.map(|(_, usage)| usage.cached).min().unwrap_or(0);
            }
            sum.tokens += usage.tokens;
            sum.thought += usage.thought;
        }
        json!({
            "prompt_tokens": sum.prompt,
            "completion_tokens": sum.tokens,
            "total_tokens": sum.prompt + sum.tokens,
            "prompt_tokens_details": { "cached_tokens": sum.cached },
            "completion_tokens_details": { "reasoning_tokens": sum.thought },
        })
    }
}

impl Answer {
    /// A place in the model's queue. It comes before any work for the request, so that the queue bounds that too.
    pub(super) fn admit(app: &App, ready: &Ready) -> Result<Seat, ApiError> {
        let seat = ready.stats.admit(app.registry.config.engine.max_queue_depth);
        seat.ok_or_else(|| ApiError::overloaded("too many requests wait for this model already"))
    }

    /// The answers to several prompts, those to one side by side. Waits for the very first token, so that a refusal is
    /// still a status of its own; the other answers to that prompt start then, and find it in the cache. No other
    /// is waited for: whoever is not read holds its place, and some may only get theirs when others are through.
    pub(super) async fn start_all(
        app: &App,
        ready: &Arc<Ready>,
        seat: Seat,
        prompts: Vec<Vec<Plan>>,
        params: &Params,
    ) -> Result<Vec<Self>, ApiError> {
        let mut seat = Some(seat);
        let mut answers: Vec<Self> = Vec::new();
        for plan in prompts.into_iter().flatten() {
            // The request was let in as one; how many answers it may have is bounded.
            let seat = seat.take().or_else(|| ready.stats.admit(u64::MAX >> 1));
            let seat =
                seat.ok_or_else(|| ApiError::overloaded("too many requests wait for this model already"))?;
            let mut answer = Self::start(app, ready, seat, plan)?;
            if answers.is_empty() {
                answer.begin(params).await?;
            }
            answers.push(answer);
        }
        Ok(answers)
    }

    fn start(app: &App, ready: &Arc<Ready>, seat: Seat, plan: Plan) -> Result<Self, ApiError> {
        let patience = app.registry.config.engine.queue_timeout;
        let Plan { generation, output } = plan;
        let usage = Usage { prompt: generation.prompt.len(), ..Usage::default() };
        let events = app.registry.device(ready).generate(generation, seat, patience)?;
        let (ready, parts) = (Arc::clone(ready), VecDeque::new());
        Ok(Self { ready, events, first: None, output, usage, parts, over: false, remember: None })
    }

    async fn begin(&mut self, params: &Params) -> Result<(), ApiError> {
        match self.events.recv().await {
            None => Err(ApiError::stopping()),
            Some(Event::Failed(failure)) => Err(ApiError::failure(&params.model, &failure)),
            first => {
                self.first = first;
                Ok(())
            }
        }
    }

    /// The next part; `None` after the last. Dropping the answer stops the engine within a step.
    pub(super) async fn next(&mut self) -> Option<Result<Part, ApiError>> {
        loop {
            if let Some(part) = self.parts.pop_front() {
                if let Some(remember) = self.remember.take_if(|_| matches!(part, Part::End(_))) {
                    remember.finish();
                }
                return Some(Ok(part));
            }
            if self.over {
                return None;
            }
            let event = match self.first.take() {
                Some(event) => Some(event),
                None => self.events.recv().await,
            };
            match event {
                None => return self.fail(ApiError::stopping()),
                Some(Event::Failed(failure)) => {
                    return self.fail(ApiError::failure(&self.ready.id, &failure));
                }
                Some(Event::Done(finish, timings)) => {
                    self.usage.tokens = timings.tokens;
                    self.finish(finish);
                }
                Some(Event::Begun { cached }) => self.usage.cached = cached,
                Some(Event::Vector(_)) => {}
                Some(Event::Prompt(logprobs)) => return Some(Ok(Part::Prompt(logprobs))),
                Some(Event::Token(id, logprobs)) => self.take(Drawn { id, logprobs }),
            }
        }
    }

    fn fail(&mut self, error: ApiError) -> Option<Result<Part, ApiError>> {
        self.over = true;
        Some(Err(error))
    }

    fn take(&mut self, drawn: Drawn) {
        self.usage.tokens += 1;
        if let Some(remember) = &mut self.remember {
            remember.token(drawn.id);
        }
        let taken = self.output.push(&self.ready.text.tokenizer, drawn);
        self.hand_out(taken, None);
    }

    /// The engine is done: what was held back comes first, then the end.
    fn finish(&mut self, finish: Finish) {
        let taken = self.output.finish();
        self.hand_out(taken, Some(finish));
    }

    /// `finish`: nothing more comes.
    fn hand_out(&mut self, taken: Taken, finish: Option<Finish>) {
        let Taken { pieces, tokens, over } = taken;
        self.usage.thought = self.output.thought();
        if !pieces.is_empty() || !tokens.is_empty() {
            if let Some(remember) = &mut self.remember {
                pieces.iter().for_each(|piece| remember.piece(piece));
            }
            self.parts.push_back(Part::Said(pieces, tokens));
        }
        let called = self.output.has_called();
        let (reason, stop) = match (over, finish) {
            (None, None) => return,
            (Some(text::Over::Stop(stop)), _) => ("stop", Value::from(stop)),
            (Some(text::Over::Called), _) => ("tool_calls", Value::Null),
            (None, Some(Finish::Length)) => ("length", Value::Null),
            (None, Some(Finish::Token(id))) => ("stop", Value::from(id)),
            (None, Some(Finish::Stop)) if called => ("tool_calls", Value::Null),
            (None, Some(Finish::Stop)) => ("stop", Value::Null),
        };
        // No further token is of use; the engine sees the closed channel at its next step.
        self.events.close();
        self.over = true;
        self.parts.push_back(Part::End(End { reason, stop, usage: self.usage }));
    }
}

/// The parts of several answers as they come, each with its answer's number. After an error nothing comes.
pub(super) fn together(
    answers: Vec<Answer>,
) -> impl Stream<Item = (usize, Result<Part, ApiError>)> + Send + Unpin {
    let each = answers.into_iter().enumerate().map(|(index, answer)| {
        let parts = stream::unfold(answer, |mut answer| async move {
            let part = answer.next().await?;
            Some((part, answer))
        });
        parts.map(move |part| (index, part)).boxed()
    });
    stream::select_all(each)
}
