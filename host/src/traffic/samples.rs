//! The last minutes, a sample a second.

use super::lock;
use crate::request::RequestRecord;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Samples that are kept: ten minutes.
const KEPT: usize = 600;
/// Times to the first token of one second that are kept.
const FIRSTS: usize = 4096;

/// One second of traffic.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Sample {
    /// Milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    /// Settled within it.
    pub(crate) requests: u64,
    /// Of those, the ones that ended with 500 and more, or were cut.
    pub(crate) errors: u64,
    /// Tokens of answers that went out within it.
    pub(crate) tokens: u64,
    pub(crate) under_way: u64,
    pub(crate) waiting: u64,
    /// Seconds, of the streams that were settled within it.
    pub(crate) first_token_p50_s: Option<f64>,
    pub(crate) first_token_p95_s: Option<f64>,
}

/// What has been counted since the last sample, and the samples.
#[derive(Default)]
pub(crate) struct Samples {
    requests: AtomicU64,
    errors: AtomicU64,
    tokens: AtomicU64,
    firsts: Mutex<Vec<f64>>,
    kept: Mutex<VecDeque<Sample>>,
}

impl Samples {
    pub(super) fn settled(&self, record: &RequestRecord) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if record.status >= 500 {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        // A stream's were counted as they went out.
        if !record.streamed {
            self.tokens.fetch_add(record.completion_tokens, Ordering::Relaxed);
        }
        if let Some(first) = record.time_to_first_token_s {
            let mut firsts = lock(&self.firsts);
            if firsts.len() < FIRSTS {
                firsts.push(first);
            }
        }
    }

    pub(crate) fn token(&self) {
        self.tokens.fetch_add(1, Ordering::Relaxed);
    }

    /// Closes a second.
    pub(crate) fn take(&self, at_ms: u64, under_way: usize, waiting: usize) {
        let count = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        let mut firsts = std::mem::take(&mut *lock(&self.firsts));
        firsts.sort_by(f64::total_cmp);
        let at =
            |share: f64| firsts.get(((firsts.len() as f64 * share) as usize).min(firsts.len().max(1) - 1));
        let sample = Sample {
            at_ms,
            requests: count(&self.requests),
            errors: count(&self.errors),
            tokens: count(&self.tokens),
            under_way: under_way as u64,
            waiting: waiting as u64,
            first_token_p50_s: at(0.5).copied(),
            first_token_p95_s: at(0.95).copied(),
        };
        let mut kept = lock(&self.kept);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(sample);
    }

    pub(crate) fn list(&self) -> Vec<Sample> {
        lock(&self.kept).iter().copied().collect()
    }

    pub(crate) fn last(&self) -> Option<Sample> {
        lock(&self.kept).back().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_what_happened_in_it_and_ten_minutes_are_kept() {
        let samples = Samples::default();
        let record = |status, first, tokens| RequestRecord {
            status,
            time_to_first_token_s: first,
            streamed: f64::is_finite(first.unwrap_or(f64::NAN)),
            completion_tokens: tokens,
            ..RequestRecord::default()
        };
        for (status, first, tokens) in
            [(200, Some(0.3), 5), (200, Some(0.1), 5), (502, None, 0), (200, None, 7)]
        {
            samples.settled(&record(status, first, tokens));
        }
        (0..5).for_each(|_| samples.token());
        samples.take(1, 3, 2);
        let last = samples.last().unwrap();
        assert_eq!((last.requests, last.errors, last.tokens), (4, 1, 12));
        assert_eq!((last.under_way, last.waiting), (3, 2));
        assert_eq!((last.first_token_p50_s, last.first_token_p95_s), (Some(0.3), Some(0.3)));
        (0..700).for_each(|second| samples.take(second, 0, 0));
        let kept = samples.list();
        assert_eq!(
            (kept.len(), kept[0].at_ms, kept[0].requests, kept[0].first_token_p50_s),
            (600, 100, 0, None)
        );
    }
}
