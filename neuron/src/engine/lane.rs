//! One model and its requests: which of them the next forward works for.
//!
//! A step runs one token of every sequence that draws, then chunks of prompts as far as the step's time
//! allows, oldest first. A request is let in when there are blocks for its whole prompt; when a sequence
//! that draws finds none, the one that came last makes room and later runs again what it had: its client
//! sees a pause, and the same tokens.

mod pace;

use std::{collections::VecDeque, sync::Arc, time::Instant};

use super::{
    Batch, Draw, Limits, Logits, Model, ModelError, Part, Rows, Scratch, Sequence,
    blocks::{Blocks, Mark},
    queue::Queue,
};
use crate::device::{Failure, Stats};
use pace::Pace;

/// A loaded model with everything that runs on it.
pub(crate) struct Lane {
    model: Box<dyn Model>,
    limits: Limits,
    stats: Arc<Stats>,
    blocks: Blocks,
    waiting: Queue,
    /// Those that had to make room; they go before all that wait.
    displaced: VecDeque<Sequence>,
    /// In the order in which they were let in.
    running: Vec<Sequence>,
    pace: Pace,
    scratch: Scratch,
    /// What went wrong in the last step, and who was in it.
    failed: Option<(ModelError, Vec<usize>)>,
    /// Its weights are elsewhere: nothing is computed.
    parked: bool,
}

/// What a step was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stepped {
    /// Nobody is here.
    Idle,
    /// Everybody who is here waits for its client.
    Stalled,
    Worked,
    /// The model has failed those who were in it: [`Lane::go_on`], or [`Lane::fail_all`] where it cannot.
    Failed,
}

/// A sequence's share of a step.
struct Share {
    /// Its place among those that run.
    index: usize,
    tokens: usize,
}

impl Lane {
    pub(crate) fn new(model: Box<dyn Model>, stats: Arc<Stats>) -> Self {
        let limits = model.limits();
        stats.set_places(limits.sequences);
        stats.set_bytes(model.weights_bytes(), limits.block_bytes as u64);
        let blocks = Blocks::new(limits.blocks, limits.block, limits.shares_blocks);
        Self {
            model,
            limits,
            stats,
            blocks,
            waiting: Queue::default(),
            displaced: VecDeque::new(),
            running: Vec::new(),
            pace: Pace::default(),
            scratch: Scratch::default(),
            failed: None,
            parked: false,
        }
    }

    pub(crate) fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    pub(crate) fn push(&mut self, sequence: Sequence) {
        self.waiting.push(sequence);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.displaced.is_empty() && self.waiting.is_empty()
    }

    /// One forward. An error of the model's ends those that were in it; a panic comes out, and the lane must
    /// not be used again.
    pub(crate) fn step(&mut self) -> Stepped {
        let now = Instant::now();
        self.waiting.sweep(now);
        self.leave(now);
        self.let_in(now);
        if self.running.is_empty() {
            return Stepped::Idle;
        }
        let shares = self.shares(now);
        if shares.is_empty() {
            return Stepped::Stalled;
        }
        if let Err(error) = self.forward(&shares) {
            self.failed = Some((error, shares.iter().map(|share| share.index).collect()));
            return Stepped::Failed;
        }
        self.leave(Instant::now());
        Stepped::Worked
    }

    /// See [`Model::park`]. Only where it is idle.
    pub(crate) fn park(&mut self) -> Result<bool, ModelError> {
        if !self.model.park()? {
            return Ok(false);
        }
        self.parked = true;
        self.blocks.forget_all();
        self.stats.record_blocks(self.blocks.filled(), self.blocks.available(), self.blocks.total());
        self.publish_marks();
        Ok(true)
    }

    /// See [`Model::wake`].
    pub(crate) fn wake(&mut self) -> Result<(), ModelError> {
        self.model.wake()?;
        self.parked = false;
        Ok(())
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.parked
    }

    /// See [`Model::abandon`].
    pub(crate) fn abandon(&mut self) {
        self.model.abandon();
    }

    /// See [`Model::broken`].
    pub(crate) fn broken(&self) -> Option<&str> {
        self.model.broken()
    }

    /// After a step that failed: whoever was in it is told.
    pub(crate) fn go_on(&mut self) {
        if let Some((error, indices)) = self.failed.take() {
            for index in indices {
                self.running[index].fail(Failure::Model(error.to_string()));
            }
        }
        self.leave(Instant::now());
    }

    /// Hands out what clients have room for, and gives back what those had who are done.
    fn leave(&mut self, now: Instant) {
        let blocks = &mut self.blocks;
        let before = self.running.len();
        self.running.retain_mut(|sequence| {
            if !sequence.is_abandoned() {
                sequence.flush(now);
            }
            if sequence.has_ended() {
                blocks.release(&mut sequence.chain);
            }
            !sequence.is_over()
        });
        self.displaced.retain(|sequence| !sequence.is_abandoned());
        if before > 0 && self.running.is_empty() {
            self.model.rest();
        }
        self.stats.record_blocks(self.blocks.filled(), self.blocks.available(), self.blocks.total());
        self.publish_marks();
    }

    /// Notes which beginnings of a conversation lie in the cache, of which `tokens` was a sequence.
    pub(crate) fn mark(&mut self, caller: &Arc<str>, tokens: &[u32], marks: &[Mark]) {
        self.blocks.mark(caller, tokens, marks);
        self.publish_marks();
    }

    fn publish_marks(&mut self) {
        let changed = self.blocks.changed_marks();
        if !changed.is_empty() {
            self.stats.prefixes.apply(&changed);
        }
    }

    /// Lets in whose turn it is, as long as there are blocks for their prompts.
    fn let_in(&mut self, now: Instant) {
        while self.running.len() < self.limits.sequences {
            let Some(next) = self.displaced.front_mut().or_else(|| self.waiting.first()) else { return };
            let caller = Arc::clone(next.caller());
            let cached = {
                let mut chain = std::mem::take(&mut next.chain);
                let known = if next.needs_all() { &[] } else { next.tokens() };
                let cached = self.blocks.find(&caller, known, &mut chain);
                // A block for each that runs already, so that nobody is displaced for a newcomer.
                let spare = self.running.len();
                let wanted = self.blocks.needed(next.tokens().len() + 1).saturating_sub(chain.blocks.len());
                let fits = self.running.is_empty() || wanted + spare <= self.blocks.available();
                if !(fits && self.blocks.grow(&mut chain, next.tokens().len())) {
                    self.blocks.release(&mut chain);
                    if self.running.is_empty() {
                        // Not even alone: the window is longer than the cache, which nothing here makes.
                        next.fail(Failure::Model("its prompt is longer than the cache".to_owned()));
                    } else {
                        return;
                    }
                }
                next.chain = chain;
                cached
            };
            let next = self.displaced.pop_front().or_else(|| self.waiting.pop());
            let Some(mut next) = next else { return };
            next.begin(now, cached);
            self.running.push(next);
        }
    }

    /// Who gets what of the next forward.
    fn shares(&mut self, now: Instant) -> Vec<Share> {
        let mut shares = Vec::new();
        let mut index = 0;
        while index < self.running.len() && shares.len() < self.limits.tokens {
            let sequence = &mut self.running[index];
            let draws = sequence.flush(now) && !sequence.has_ended() && sequence.pending() == 1;
            if draws && sequence.is_ready() && self.has_block(index) {
                shares.push(Share { index, tokens: 1 });
            }
            index += 1;
        }
        let room = self.limits.tokens - shares.len();
        let paced = if self.limits.whole { room } else { self.pace.prompt_tokens(!shares.is_empty()) };
        let mut left = room.min(paced);
        // Each that runs may want a row of logits; whoever wants more gets what is left of them.
        let mut rows = self.limits.sequences - self.running.len();
        for (index, sequence) in self.running.iter_mut().enumerate() {
            let pending = sequence.pending();
            if pending < 2 || sequence.has_ended() || left == 0 {
                continue;
            }
            // What is told of a prompt must not pile up for who does not listen.
            if sequence.reads_prompt() && (!sequence.flush(now) || sequence.has_ended()) {
                continue;
            }
            let mut tokens = pending.min(left);
            if self.limits.whole && tokens < pending {
                // Who does not fit beside the others is the first in a later step.
                continue;
            }
            if sequence.reads_prompt() {
                tokens = tokens.min(rows + 1);
                rows -= tokens - 1;
            }
            left -= tokens;
            shares.push(Share { index, tokens });
        }
        shares.sort_by_key(|share| share.index);
        shares
    }

    /// Sees to a block for the next token, if need be by having the last in line make room; `false`: it was
    /// this one itself.
    fn has_block(&mut self, index: usize) -> bool {
        loop {
            let sequence = &mut self.running[index];
            let tokens = sequence.tokens().len();
            if self.blocks.grow(&mut sequence.chain, tokens) {
                return true;
            }
            let Some(mut last) = self.running.pop() else { return false };
            self.blocks.release(&mut last.chain);
            last.begin(Instant::now(), 0);
            self.stats.count_displaced();
            let itself = self.running.len() == index;
            self.displaced.push_front(last);
            if itself {
                return false;
            }
        }
    }

    fn forward(&mut self, shares: &[Share]) -> Result<(), ModelError> {
        let mut tokens = Vec::new();
        let mut parts = Vec::with_capacity(shares.len());
        let drawn = shares.iter().map(|Share { index, tokens: len }| {
            let sequence = &mut self.running[*index];
            let draws = self.limits.draws && *len == sequence.pending();
            draws.then(|| sequence.plain_draw()).flatten()
        });
        let drawn: Vec<Option<Draw>> = drawn.collect();
        for (Share { index, tokens: len }, drawn) in shares.iter().zip(drawn) {
            let sequence = &self.running[*index];
            let position = sequence.done();
            tokens.extend_from_slice(&sequence.tokens()[position..position + len]);
            let rows = match *len == sequence.pending() {
                _ if sequence.is_pooled() => Rows::States,
                _ if sequence.reads_prompt() => Rows::All,
                true => drawn.map_or(Rows::Last, Rows::Drawn),
                false => Rows::None,
            };
            parts.push(Part { len: *len, position, blocks: &sequence.chain.blocks, rows });
        }
        let drawing = shares.iter().filter(|share| share.tokens == 1).count();
        let prompt = tokens.len() - drawing;
        let started = Instant::now();
        let logits = self.model.forward(&Batch { tokens: &tokens, parts: &parts })?;
        let is_drawn = |part: &Part<'_>| matches!(part.rows, Rows::Drawn(_));
        let wants: Vec<(usize, bool)> = parts.iter().map(|part| (part.wanted(), is_drawn(part))).collect();
        drop(parts);
        let Logits { data: mut rest, vocab, states: mut pooled, width, drawn } = logits;
        let mut drawn = drawn.iter().copied();
        for (Share { index, tokens }, (wanted, is_drawn)) in shares.iter().zip(wants) {
            let (rows, others) = rest.split_at_mut(wanted * vocab);
            rest = others;
            let sequence = &mut self.running[*index];
            if sequence.reads_prompt() {
                sequence.tell_prompt(sequence.done(), rows, vocab);
            }
            sequence.advance(*tokens);
            if sequence.is_pooled() {
                let (states, others) = pooled.split_at(tokens * width);
                pooled = others;
                sequence.pool(states, width);
            }
            let caller = Arc::clone(sequence.caller());
            let mut chain = std::mem::take(&mut sequence.chain);
            self.blocks.seal(&caller, &mut chain, sequence.tokens(), sequence.done());
            sequence.chain = chain;
            if is_drawn {
                sequence.take(drawn.next().flatten());
            } else if sequence.pending() == 0
                && let Some(start) = rows.len().checked_sub(vocab)
            {
                sequence.draw(&mut rows[start..], &mut self.scratch, self.limits.every_row);
            }
        }
        let took = started.elapsed();
        self.pace.record(drawing, prompt, took);
        self.stats.record_step(drawing, prompt, took);
        Ok(())
    }

    /// Fails everybody: the model is gone.
    pub(crate) fn fail_all(&mut self, failure: &Failure) {
        let now = Instant::now();
        for mut sequence in self.running.drain(..).chain(self.displaced.drain(..)) {
            sequence.fail(failure.clone());
            sequence.flush(now);
        }
        self.waiting.fail_all(failure, now);
    }
}
