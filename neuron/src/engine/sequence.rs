//! One request while it generates.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use neuron_kernels::logits::mask;

use super::{
    Draw, Guide, Logprobs, Pooling, Sampler, Sampling, Scratch, Thoughts, blocks::Chain, guide::Verdict,
    pooling::Pool, thoughts::Budget,
};
use crate::device::{Failure, ModelKey, Seat};

/// A client that takes no token for this long has gone, whatever its connection says.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// How long the device's thread waits for the grammar of one sequence.
const GUIDE_PATIENCE: Duration = Duration::from_micros(500);
/// The same where a token cannot be run again, so that there is no other way.
const LONG_PATIENCE: Duration = Duration::from_secs(5);

/// What a request asks of the engine.
#[derive(Debug)]
pub struct Generation {
    pub model: ModelKey,
    /// Who asks: callers share a model fairly and see nothing of each other's cache.
    pub caller: Arc<str>,
    /// Not empty, and shorter than the model's window.
    pub prompt: Vec<u32>,
    /// With the prompt no longer than the window; 0 where only the prompt is asked about.
    pub max_tokens: usize,
    /// Tokens that come before any that ends the answer.
    pub min_tokens: usize,
    pub sampling: Sampling,
    /// Tokens that end the answer; none of them is given out.
    pub end: Arc<[u32]>,
    /// Go on at those tokens all the same, and draw others.
    pub ignore_end: bool,
    /// Tokens that end the answer because the request says so; nor are these given out.
    pub stops: Arc<[u32]>,
    /// Say how likely each token was, and so many of the likeliest.
    pub logprobs: Option<usize>,
    /// The same of every token of the prompt but the first.
    pub prompt_logprobs: Option<usize>,
    /// No text is wanted, but the prompt's vector.
    pub pooling: Option<Pooling>,
    pub guide: Option<Guide>,
    pub thoughts: Option<Thoughts>,
}

/// What a sequence tells its client, in order; the last is `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Its first token comes next; so many of the prompt's were in the cache.
    Begun {
        cached: usize,
    },
    /// The next tokens of the prompt, where they were asked for; before `Begun`.
    Prompt(Vec<Logprobs>),
    Token(u32, Option<Box<Logprobs>>),
    /// The prompt's vector; before `Done`.
    Vector(Vec<f32>),
    Done(Finish, Timings),
    Failed(Failure),
}

/// Why a sequence ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, or its grammar.
    Stop,
    /// It drew this one of the request's own.
    Token(u32),
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
    /// Tokens of its prompt that it was told of, the first not counted.
    told: usize,
    /// Its last token is run again once its grammar is done.
    held: bool,
    budget: Option<Budget>,
    pool: Option<Pool>,
}

impl Sequence {
    /// `deadline`: when waiting for a turn becomes a failure.
    pub(crate) fn new(
        mut generation: Generation,
        out: mpsc::Sender<Event>,
        seat: Seat,
        deadline: Instant,
    ) -> Self {
        let budget = generation.thoughts.take().map(Budget::new);
        let pool = generation.pooling.map(Pool::new);
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
            told: 0,
            held: false,
            budget,
            pool,
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
        if let Some(pool) = &mut self.pool {
            pool.restart();
        }
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

    /// Whether the logits of every token of its prompt are wanted, so that all of it has to be run.
    pub(crate) fn reads_prompt(&self) -> bool {
        self.generation.prompt_logprobs.is_some()
    }

    /// Whether its prompt has to be run from its beginning, whatever the cache has.
    pub(crate) fn needs_all(&self) -> bool {
        self.reads_prompt() || self.pool.as_ref().is_some_and(Pool::needs_all)
    }

    /// Whether it wants its prompt's vector.
    pub(crate) fn is_pooled(&self) -> bool {
        self.pool.is_some()
    }

    /// The states of its next tokens; ends it with those of the last.
    pub(crate) fn pool(&mut self, states: &[f32], width: usize) {
        let pending = self.pending();
        let Some(pool) = &mut self.pool else { return };
        pool.add(states, width);
        if pending == 0 {
            let vector = pool.finish();
            self.speak();
            self.outbox.push_back(Event::Vector(vector));
            self.end(Event::Done(Finish::Stop, self.timings));
        }
    }

    /// Tells how likely the tokens of its prompt were that come after `position` and the `rows` from there on.
    pub(crate) fn tell_prompt(&mut self, position: usize, rows: &[f32], vocab: usize) {
        let Some(count) = self.generation.prompt_logprobs else { return };
        // After it had to make room it runs what was told already.
        let again = self.told.saturating_sub(position);
        let next = self.generation.prompt.iter().skip(position + 1);
        let rows = rows.chunks_exact(vocab).zip(next).skip(again);
        let told: Vec<Logprobs> = rows.map(|(row, token)| Logprobs::of(row, *token, count)).collect();
        if !told.is_empty() {
            self.told += told.len();
            self.outbox.push_back(Event::Prompt(told));
        }
    }

    /// Whether the next forward can serve it. Ends it where its grammar leaves nothing to be said.
    pub(crate) fn is_ready(&mut self) -> bool {
        let Some(guide) = &self.generation.guide else { return true };
        if !guide.is_ready() {
            return !self.held;
        }
        if self.spoke.is_some() && guide.verdict(Duration::ZERO) == Some(Verdict::Over) {
            self.end(Event::Done(Finish::Stop, self.timings));
            return false;
        }
        true
    }

    /// Draws the next token from the logits after all tokens so far. `again`: the last token may be run again.
    pub(crate) fn draw(&mut self, logits: &mut [f32], scratch: &mut Scratch, again: bool) {
        let verdict = match &self.generation.guide {
            None => None,
            Some(guide) => {
                let verdict = guide.verdict(if again { GUIDE_PATIENCE } else { LONG_PATIENCE });
                if verdict.is_none() && again {
                    self.held = true;
                    self.done -= 1;
                    return;
                }
                Some(verdict.unwrap_or_else(|| Verdict::Failed("it takes too long".to_owned())))
            }
        };
        self.held = false;
        self.speak();
        if self.generation.max_tokens == 0 {
            self.end(Event::Done(Finish::Length, self.timings));
            return;
        }
        let raw = self.generation.logprobs.map(|count| (count, logits.to_vec()));
        match verdict {
            None => {}
            Some(Verdict::Tokens(bits)) => mask(logits, &bits),
            Some(Verdict::Over) => return self.end(Event::Done(Finish::Stop, self.timings)),
            Some(Verdict::Failed(why)) => return self.fail(Failure::Grammar(why)),
        }
        let Some(token) = self.next_token(logits, scratch) else {
            self.fail(Failure::Model("the model's output is not a number".to_owned()));
            return;
        };
        self.say(token, raw.map(|(count, raw)| Box::new(Logprobs::of(&raw, token, count))));
    }

    /// How its next token is drawn, where nothing but the logits as they are decides it and nobody wants to see them.
    pub(crate) fn plain_draw(&mut self) -> Option<Draw> {
        let Generation { guide, logprobs, prompt_logprobs, end, ignore_end, min_tokens, max_tokens, .. } =
            &self.generation;
        let watched = guide.is_some() || logprobs.is_some() || prompt_logprobs.is_some();
        let barred = (*ignore_end && !end.is_empty()) || self.timings.tokens < *min_tokens;
        if watched || barred || *max_tokens == 0 || self.budget.is_some() || self.pool.is_some() {
            return None;
        }
        self.sampler.plain_draw()
    }

    /// The token that the model drew; `None`: its output is not a number.
    pub(crate) fn take(&mut self, token: Option<u32>) {
        self.speak();
        match token {
            Some(token) => {
                self.sampler.record(token);
                self.say(token, None);
            }
            None => self.fail(Failure::Model("the model's output is not a number".to_owned())),
        }
    }

    /// Its first token comes.
    fn speak(&mut self) {
        let now = Instant::now();
        if self.spoke.is_none() {
            self.outbox.push_back(Event::Begun { cached: self.cached });
        }
        let spoke = *self.spoke.get_or_insert(now);
        self.timings.decode = now.saturating_duration_since(spoke);
        self.timings.prefill = spoke.saturating_duration_since(self.began.unwrap_or(spoke));
    }

    fn next_token(&mut self, logits: &mut [f32], scratch: &mut Scratch) -> Option<u32> {
        if let Some(due) = self.budget.as_mut().and_then(Budget::next) {
            self.sampler.record(due);
            return Some(due);
        }
        let Generation { end, stops, ignore_end, min_tokens, .. } = &self.generation;
        let early = self.timings.tokens < *min_tokens;
        let barred = end.iter().filter(|_| *ignore_end || early).chain(stops.iter().filter(|_| early));
        let mut was = Vec::new();
        for token in barred {
            if let Some(logit) = logits.get_mut(*token as usize) {
                was.push((*token as usize, std::mem::replace(logit, f32::NEG_INFINITY)));
            }
        }
        let drawn = self.sampler.sample(logits, scratch);
        if drawn.is_some() || self.generation.guide.is_none() {
            return drawn;
        }
        // The grammar allows nothing else: a length is wished for, and a form is not.
        was.into_iter().for_each(|(token, logit)| logits[token] = logit);
        self.sampler.sample(logits, scratch)
    }

    fn say(&mut self, token: u32, logprobs: Option<Box<Logprobs>>) {
        self.timings.tokens += 1;
        if self.generation.end.contains(&token) {
            self.end(Event::Done(Finish::Stop, self.timings));
            return;
        }
        if self.generation.stops.contains(&token) {
            self.end(Event::Done(Finish::Token(token), self.timings));
            return;
        }
        self.tokens.push(token);
        self.outbox.push_back(Event::Token(token, logprobs));
        if self.timings.tokens >= self.generation.max_tokens {
            self.end(Event::Done(Finish::Length, self.timings));
            return;
        }
        if let Some(guide) = &self.generation.guide {
            guide.accept(token);
        }
        if let Some(budget) = &mut self.budget {
            budget.said(token);
        }
    }
}
