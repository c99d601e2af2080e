//! One request while it generates.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{Sampler, Sampling, blocks::Chain};
use crate::device::{Failure, ModelKey, Seat};

/// A client that takes no token for this long has gone, whatever its connection says.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// What a request asks of the engine.
#[derive(Debug, Clone)]
pub struct Generation {
    pub model: ModelKey,
    /// Who asks: callers share a model fairly and see nothing of each other's cache.
    pub caller: Arc<str>,
    /// Not empty, and shorter than the model's window.
    pub prompt: Vec<u32>,
    /// At least 1; with the prompt no longer than the window.
    pub max_tokens: usize,
    pub sampling: Sampling,
    /// Tokens that end the answer; none of them is given out.
    pub end: Arc<[u32]>,
    /// Go on at those tokens all the same, and draw others.
    pub ignore_end: bool,
}

/// What a sequence tells its client, in order; the last is `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Its first token comes next; so many of the prompt's were in the cache.
    Begun {
        cached: usize,
    },
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
    /// The prompt, then what was drawn.
    tokens: Vec<u32>,
    /// Of those, how many the cache has.
    done: usize,
    pub(crate) chain: Chain,
    /// Tokens of the prompt that the cache had when its turn came.
    cached: usize,
    /// When its turn came, and when its first token was drawn.
    began: Option<Instant>,
    spoke: Option<Instant>,
    /// Not yet taken by the client: at most the beginning, a token and the end.
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
            sampler,
            out,
            seat,
            came: Instant::now(),
            deadline,
            tokens: generation.prompt.clone(),
            generation,
            done: 0,
            chain: Chain::default(),
            cached: 0,
            began: None,
            spoke: None,
            outbox: VecDeque::new(),
            stalled_since: None,
            timings: Timings::default(),
            over: false,
        }
    }

    pub(crate) fn model(&self) -> ModelKey {
        self.generation.model
    }

    pub(crate) fn caller(&self) -> &Arc<str> {
        &self.generation.caller
    }

    /// Tokens that it asks for in all, prompt and answer.
    pub(crate) fn cost(&self) -> u64 {
        (self.generation.prompt.len() + self.generation.max_tokens) as u64
    }

    /// Its client has left.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.out.is_closed()
    }

    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        self.began.is_none() && now >= self.deadline
    }

    /// Its turn has come, and the cache has its first `cached` tokens. Also after it had to make room.
    pub(crate) fn begin(&mut self, now: Instant, cached: usize) {
        self.done = cached;
        if self.began.is_none() {
            self.began = Some(now);
            self.timings.queued = now.saturating_duration_since(self.came);
            self.cached = cached;
            self.seat.take();
        }
    }

    /// Prompt and answer so far.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens that the cache has.
    pub(crate) fn done(&self) -> usize {
        self.done
    }

    /// Tokens that the cache lacks: one while it draws, more while its prompt is run.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.done
    }

    /// Nothing more will be computed, and the client has all of it or has gone.
    pub(crate) fn is_over(&self) -> bool {
        self.is_abandoned() || (self.over && self.outbox.is_empty())
    }

    /// Nothing more will be computed.
    pub(crate) fn has_ended(&self) -> bool {
        self.over || self.is_abandoned()
    }

    /// Ends it with an error.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.end(Event::Failed(failure));
    }

    fn end(&mut self, last: Event) {
        self.over = true;
        self.seat.give_back();
        self.outbox.push_back(last);
    }

    /// Hands over what the client has room for. `false`: it has no room, so there is nothing to compute.
    /// One that takes nothing for too long is failed. Afterwards the sequence may be over.
    pub(crate) fn flush(&mut self, now: Instant) -> bool {
        while let Some(event) = self.outbox.pop_front() {
            // The last place is kept for the end, so that even a client that is behind hears how it ended.
            let kept = usize::from(!matches!(event, Event::Done(..) | Event::Failed(_)));
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

    /// The cache has `count` tokens more.
    pub(crate) fn advance(&mut self, count: usize) {
        self.done += count;
    }

    /// Draws the next token from the logits after all tokens so far.
    pub(crate) fn draw(&mut self, logits: &mut [f32]) {
        if self.generation.ignore_end {
            for end in self.generation.end.iter() {
                if let Some(logit) = logits.get_mut(*end as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        let Some(token) = self.sampler.sample(logits) else {
            self.fail(Failure::Model("the model's output is not a number".to_owned()));
            return;
        };
        let now = Instant::now();
        if self.spoke.is_none() {
            self.outbox.push_back(Event::Begun { cached: self.cached });
        }
        let spoke = *self.spoke.get_or_insert(now);
        self.timings.tokens += 1;
        self.timings.decode = now.saturating_duration_since(spoke);
        self.timings.prefill = spoke.saturating_duration_since(self.began.unwrap_or(spoke));
        if self.generation.end.contains(&token) {
            self.end(Event::Done(Finish::Stop, self.timings));
            return;
        }
        self.tokens.push(token);
        self.outbox.push_back(Event::Token(token));
        if self.timings.tokens >= self.generation.max_tokens {
            self.end(Event::Done(Finish::Length, self.timings));
        }
    }
}
