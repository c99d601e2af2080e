//! Which sequence takes the next step. One generates at a time, the others wait in order.

use std::{collections::VecDeque, time::Instant};

use super::Sequence;
use crate::device::{Failure, ModelKey};

/// The sequences of a device. How many may wait is decided where they are admitted: see [`crate::device::Stats::admit`].
#[derive(Default)]
pub(crate) struct Scheduler {
    running: Option<Sequence>,
    waiting: VecDeque<Sequence>,
}

impl Scheduler {
    /// At the end of the queue.
    pub(crate) fn push(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    /// Some sequence of the model is here.
    pub(crate) fn has(&self, model: ModelKey) -> bool {
        self.running.iter().chain(&self.waiting).any(|sequence| sequence.model() == model)
    }

    /// The sequence whose turn it is. Those whose clients have left or whose time has run out go first.
    pub(crate) fn next(&mut self, now: Instant) -> Option<&mut Sequence> {
        self.waiting.retain_mut(|sequence| {
            if sequence.is_overdue(now) {
                sequence.seat.stats().count_timeout();
                sequence.fail(Failure::QueueTimeout);
                sequence.flush(now);
                return false;
            }
            !sequence.is_abandoned()
        });
        if self.running.is_none() {
            self.running = self.waiting.pop_front();
            if let Some(sequence) = &mut self.running {
                sequence.begin(now);
            }
        }
        self.running.as_mut()
    }

    /// Takes out the running sequence: it is over.
    pub(crate) fn finish(&mut self) -> Option<Sequence> {
        self.running.take()
    }

    /// Fails every sequence of the model.
    pub(crate) fn fail_all(&mut self, model: ModelKey, failure: &Failure) {
        let now = Instant::now();
        let end = |sequence: &mut Sequence| {
            let ends = sequence.model() == model;
            if ends {
                sequence.fail(failure.clone());
                sequence.flush(now);
            }
            ends
        };
        self.waiting.retain_mut(|sequence| !end(sequence));
        if self.running.as_mut().is_some_and(end) {
            self.running = None;
        }
    }
}
