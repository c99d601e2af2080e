//! Requests that wait for their turn with a model: callers take turns by what they ask for.
//!
//! Start-time fair queueing: each request is stamped with where its caller's tokens so far end, or with the
//! present where the caller has had nothing lately; the lowest stamp goes first. A caller with a hundred
//! requests waits for its own, and one that comes with a single one waits for no hundred.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::Sequence;
use crate::device::Failure;

/// How often those that wait are looked through for clients that have left and for time that has run out.
const SWEEP: Duration = Duration::from_millis(5);

/// Requests of one model that wait. How many may is decided where they are admitted: see
/// [`crate::device::Stats::admit`].
#[derive(Default)]
pub(crate) struct Queue {
    waiting: BTreeMap<(u64, u64), Sequence>,
    /// Where each caller's tokens end.
    ends: HashMap<Arc<str>, u64>,
    /// The stamp of the last one whose turn came.
    present: u64,
    arrivals: u64,
    swept: Option<Instant>,
}

impl Queue {
    pub(crate) fn push(&mut self, sequence: Sequence) {
        let end = self.ends.entry(Arc::clone(sequence.caller())).or_insert(0);
        let stamp = self.present.max(*end);
        *end = stamp + sequence.cost();
        self.arrivals += 1;
        self.waiting.insert((stamp, self.arrivals), sequence);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whose turn it is.
    pub(crate) fn first(&mut self) -> Option<&mut Sequence> {
        self.waiting.first_entry().map(std::collections::btree_map::OccupiedEntry::into_mut)
    }

    pub(crate) fn pop(&mut self) -> Option<Sequence> {
        let ((stamp, _), sequence) = self.waiting.pop_first()?;
        self.present = stamp;
        let present = self.present;
        self.ends.retain(|_, end| *end > present);
        Some(sequence)
    }

    /// Removes those whose clients have left, and fails those that have waited too long.
    pub(crate) fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|last| now.saturating_duration_since(last) < SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.waiting.retain(|_, sequence| {
            if sequence.is_overdue(now) {
                sequence.seat.stats().count_timeout();
                sequence.fail(Failure::QueueTimeout);
                sequence.flush(now);
                return false;
            }
            !sequence.is_abandoned()
        });
    }

    /// Fails all.
    pub(crate) fn fail_all(&mut self, failure: &Failure, now: Instant) {
        for sequence in self.waiting.values_mut() {
            sequence.fail(failure.clone());
            sequence.flush(now);
        }
        self.waiting.clear();
    }
}
