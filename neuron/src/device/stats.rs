//! What is known of a loaded model from outside the thread: counts and rates, without a lock.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};

use super::prefixes::Prefixes;

/// Weight of the newest step in the moving averages of the rates.
const NEWEST: f64 = 0.1;
/// Fewer tokens of prompts than this say nothing about their rate.
const FEWEST: usize = 4;

/// Counts and rates of one model.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    in_flight: AtomicU64,
    queued: AtomicU64,
    rejected_full: AtomicU64,
    rejected_timeout: AtomicU64,
    /// Sequences that may run at once; 0: not loaded yet, and then one.
    places: AtomicU64,
    /// Tokens per second, bits of an f64; 0: nothing measured yet.
    prefill: AtomicU64,
    decode: AtomicU64,
    /// Blocks of the cache: that hold something, that can be had, and in all.
    blocks: [AtomicU64; 3],
    /// Bytes of the weights, and of a block.
    bytes: [AtomicU64; 2],
    /// Sequences that had to make room.
    displaced: AtomicU64,
    /// Which beginnings of conversations its cache holds.
    pub(crate) prefixes: Prefixes,
    /// When its last request ended; `None` before the first.
    used: Mutex<Option<Instant>>,
    /// Set when the engine broke down in this model.
    fault: OnceLock<String>,
}

impl Stats {
    /// A place in the queue, unless `max_queued` others wait that could not run at once.
    pub(crate) fn admit(self: &Arc<Self>, max_queued: u64) -> Option<Seat> {
        let places = self.places.load(Relaxed).max(1);
        let room = max_queued + places.saturating_sub(self.in_flight.load(Relaxed));
        let admitted = self.queued.fetch_update(Relaxed, Relaxed, |n| (n < room).then_some(n + 1));
        if admitted.is_err() {
            self.rejected_full.fetch_add(1, Relaxed);
            return None;
        }
        Some(Seat { stats: Arc::clone(self), held: Held::Waiting })
    }

    pub(crate) fn count_timeout(&self) {
        self.rejected_timeout.fetch_add(1, Relaxed);
    }

    pub(crate) fn set_places(&self, places: usize) {
        self.places.store(places as u64, Relaxed);
    }

    pub(crate) fn set_bytes(&self, weights: u64, block: u64) {
        self.bytes[0].store(weights, Relaxed);
        self.bytes[1].store(block, Relaxed);
    }

    /// Bytes of the weights as they are held, and of the blocks that hold something.
    pub(crate) fn held(&self) -> (u64, u64) {
        let [weights, block] = self.bytes.each_ref().map(|bytes| bytes.load(Relaxed));
        (weights, block * self.blocks()[0])
    }

    /// Sequences that may run at once.
    pub(crate) fn places(&self) -> u64 {
        self.places.load(Relaxed).max(1)
    }

    /// A forward in which `drawing` sequences drew and `prompt` tokens of prompts were run.
    pub(crate) fn record_step(&self, drawing: usize, prompt: usize, time: Duration) {
        if prompt >= FEWEST && prompt >= 4 * drawing {
            record(&self.prefill, prompt, time);
        }
        if drawing > 0 && prompt == 0 {
            // Of one sequence, whatever is beside it.
            record(&self.decode, 1, time);
        }
    }

    pub(crate) fn record_blocks(&self, filled: usize, available: usize, total: usize) {
        for (count, now) in self.blocks.iter().zip([filled, available, total]) {
            count.store(now as u64, Relaxed);
        }
    }

    pub(crate) fn count_displaced(&self) {
        self.displaced.fetch_add(1, Relaxed);
    }

    /// Blocks of the cache: that hold something, that can be had, and in all.
    pub(crate) fn blocks(&self) -> [u64; 3] {
        self.blocks.each_ref().map(|count| count.load(Relaxed))
    }

    /// Sequences that had to make room for others.
    #[cfg(test)]
    pub(crate) fn displaced(&self) -> u64 {
        self.displaced.load(Relaxed)
    }

    /// The first fault stays.
    pub(crate) fn set_fault(&self, what: String) {
        self.fault.set(what).ok();
    }

    pub(crate) fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// Requests that generate, and that wait.
    pub(crate) fn load(&self) -> (u64, u64) {
        // In this order, with that of `Seat::take`, a model that works is never seen at rest.
        let queued = self.queued.load(SeqCst);
        (self.in_flight.load(SeqCst), queued)
    }

    /// Since its last request ended; zero while there is one. `None`: there was none yet.
    pub(crate) fn idle(&self) -> Option<Duration> {
        match self.load() {
            (0, 0) => (*self.used()).map(|at| at.elapsed()),
            _ => Some(Duration::ZERO),
        }
    }

    /// As if it had just been loaded.
    pub(crate) fn forget_use(&self) {
        *self.used() = None;
    }

    fn used(&self) -> MutexGuard<'_, Option<Instant>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests refused because the queue was full, and because they waited too long.
    pub(crate) fn rejected(&self) -> (u64, u64) {
        (self.rejected_full.load(Relaxed), self.rejected_timeout.load(Relaxed))
    }

    /// Tokens per second: prefill, decode.
    pub(crate) fn rates(&self) -> (f64, f64) {
        let rate = |bits: &AtomicU64| f64::from_bits(bits.load(Relaxed));
        (rate(&self.prefill), rate(&self.decode))
    }
}

/// Only the device's thread writes, so reading and writing need not be one.
fn record(average: &AtomicU64, tokens: usize, time: Duration) {
    if time.is_zero() {
        return;
    }
    #[expect(clippy::cast_precision_loss, reason = "token counts stay far below 2^53")]
    let rate = tokens as f64 / time.as_secs_f64();
    let before = f64::from_bits(average.load(Relaxed));
    let after = if before == 0.0 { rate } else { before + NEWEST * (rate - before) };
    average.store(after.to_bits(), Relaxed);
}

/// A request's place with a model, waiting or generating; given back on drop, whatever happened.
#[derive(Debug)]
pub(crate) struct Seat {
    stats: Arc<Stats>,
    held: Held,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Waiting,
    Generating,
    Nothing,
}

impl Seat {
    /// From waiting to generating.
    pub(crate) fn take(&mut self) {
        if self.held == Held::Waiting {
            self.held = Held::Generating;
            // In this order a model is never seen at rest in between.
            self.stats.in_flight.fetch_add(1, SeqCst);
            self.stats.queued.fetch_sub(1, SeqCst);
        }
    }

    /// Before the client hears of the end, so that no figure is behind what it knows.
    pub(crate) fn give_back(&mut self) {
        if self.held != Held::Nothing {
            *self.stats.used() = Some(Instant::now());
        }
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Waiting => self.stats.queued.fetch_sub(1, Relaxed),
            Held::Generating => self.stats.in_flight.fetch_sub(1, Relaxed),
            Held::Nothing => 0,
        };
    }

    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_runs_and_as_many_as_allowed_wait() {
        let stats = Arc::new(Stats::default());
        let mut first = stats.admit(1).unwrap();
        first.take();
        let second = stats.admit(1).unwrap();
        assert!(stats.admit(1).is_none());
        assert_eq!((stats.load(), stats.rejected().0), ((1, 1), 1));
        drop((first, second));
        assert_eq!(stats.load(), (0, 0));
        assert!(stats.admit(0).is_some(), "a queue of length 0 still lets one run");
    }

    #[test]
    fn rates_move_towards_the_newest() {
        let stats = Stats::default();
        stats.record_step(8, 0, Duration::from_millis(10));
        stats.record_step(1, 0, Duration::from_millis(5));
        // Both at once, or next to nothing: nothing is learned.
        stats.record_step(8, 8, Duration::from_secs(1));
        stats.record_step(0, 1, Duration::from_secs(1));
        assert!((stats.rates().1 - 110.0).abs() < 1e-9);
        assert!(stats.rates().0 == 0.0);
    }
}
