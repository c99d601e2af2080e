//! One request while it generates.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{Model, ModelError, Sampler, Sampling};
use crate::device::{Failure, ModelKey, Seat};

/// A client that takes no token for this long has gone, whatever its connection says.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// What a request asks of the engine.
#[derive(Debug, Clone)]
pub struct Generation {
    pub model: ModelKey,
    /// Not empty, and shorter than the model's window.
    pub prompt: Vec<u32>,
    /// At least 1; with the prompt no longer than the window.
    pub max_tokens: usize,
    pub sampling: Sampling,
    /// Tokens that end the answer; none of them is given out.
    pub end: Arc<[u32]>,
}

/// What a sequence tells its client, in order; the last is `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Token(u32),
    Done(Finish, Timings),
    Failed(Failure),
}

/// Why a sequence ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it.
    Stop,
    /// `max_tokens` or the window.
    Length,
}

/// Where a sequence's time went.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timings {
    pub queued: Duration,
    pub prefill: Duration,
    pub decode: Duration,
    /// Tokens drawn, the ending one included.
    pub tokens: usize,
}

/// A request on the device's thread.
pub(crate) struct Sequence {
    generation: Generation,
    sampler: Sampler,
    out: mpsc::Sender<Event>,
    pub(crate) seat: Seat,
    came: Instant,
    deadline: Instant,
    /// Tokens in the model's cache.
    position: usize,
    /// Drawn, not yet in the cache.
    next: Option<u32>,
    /// Not yet taken by the client: at most a token and the end.
    outbox: VecDeque<Event>,
    stalled_since: Option<Instant>,
    timings: Timings,
    over: bool,
}

impl Sequence {
    /// `deadline`: when waiting for a turn becomes a failure.
    pub(crate) fn new(
        generation: Generation,
        out: mpsc::Sender<Event>,
        seat: Seat,
        deadline: Instant,
    ) -> Self {
        let sampler = Sampler::new(generation.sampling.clone(), &generation.prompt);
        Self {
            generation,
            sampler,
            out,
            seat,
            came: Instant::now(),
            deadline,
            position: 0,
            next: None,
            outbox: VecDeque::new(),
            stalled_since: None,
            timings: Timings::default(),
            over: false,
        }
    }

    pub(crate) fn model(&self) -> ModelKey {
        self.generation.model
    }

    /// Its client has left.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.out.is_closed()
    }

    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        now >= self.deadline
    }

    /// Its turn has come.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.timings.queued = now.saturating_duration_since(self.came);
        self.seat.take();
    }

    /// Nothing more will be computed, and the client has all of it or has gone.
    pub(crate) fn is_over(&self) -> bool {
        self.is_abandoned() || (self.over && self.outbox.is_empty())
    }

    /// Ends it with an error.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.end(Event::Failed(failure));
    }

    fn end(&mut self, last: Event) {
        self.over = true;
        self.record();
        self.seat.give_back();
        self.outbox.push_back(last);
    }

    /// Hands over what the client has room for. `false`: it has no room, so there is nothing to compute.
    /// One that takes nothing for too long is failed. Afterwards the sequence may be over.
    pub(crate) fn flush(&mut self, now: Instant) -> bool {
        while let Some(event) = self.outbox.pop_front() {
            // The last place is kept for the end, so that even a client that is behind hears how it ended.
            let kept = usize::from(matches!(event, Event::Token(_)));
            if self.out.capacity() > kept {
                // A failure means that nobody listens: see `is_abandoned`.
                self.out.try_send(event).ok();
                self.stalled_since = None;
                continue;
            }
            let since = *self.stalled_since.get_or_insert(now);
            if now.saturating_duration_since(since) <= STALL_LIMIT {
                self.outbox.push_front(event);
                return false;
            }
            self.outbox.clear();
            self.fail(Failure::Stalled);
        }
        true
    }

    /// One step: a chunk of the prompt, or one token.
    pub(crate) fn step(&mut self, model: &mut dyn Model) -> Result<(), ModelError> {
        let started = Instant::now();
        let prefilling = self.next.is_none();
        let mut logits = match self.next {
            Some(token) => {
                let logits = model.forward(&[token], self.position)?;
                self.position += 1;
                logits
            }
            None => {
                let left = &self.generation.prompt[self.position..];
                let chunk = model.chunk(left.len()).clamp(1, left.len());
                let logits = model.forward(&left[..chunk], self.position)?;
                self.position += chunk;
                logits
            }
        };
        let finish =
            if self.position < self.generation.prompt.len() { None } else { self.draw(&mut logits)? };
        let spent = if prefilling { &mut self.timings.prefill } else { &mut self.timings.decode };
        *spent += started.elapsed();
        if let Some(finish) = finish {
            self.end(Event::Done(finish, self.timings));
        }
        Ok(())
    }

    /// Draws the next token; returns why it was the last.
    fn draw(&mut self, logits: &mut [f32]) -> Result<Option<Finish>, ModelError> {
        let token = self
            .sampler
            .sample(logits)
            .ok_or_else(|| ModelError("the model's output is not a number".to_owned()))?;
        self.timings.tokens += 1;
        if self.generation.end.contains(&token) {
            return Ok(Some(Finish::Stop));
        }
        self.next = Some(token);
        self.outbox.push_back(Event::Token(token));
        Ok((self.timings.tokens >= self.generation.max_tokens).then_some(Finish::Length))
    }

    /// Tells the model's statistics how fast it went.
    fn record(&self) {
        let prefilled = self.position.min(self.generation.prompt.len());
        self.seat.stats().record_prefill(prefilled, self.timings.prefill);
        // The first token comes out of the prefill.
        self.seat.stats().record_decode(self.timings.tokens.saturating_sub(1), self.timings.decode);
    }
}
