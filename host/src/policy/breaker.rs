//! When a policy is no longer asked, and when it is tried again.

use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Strikes within [`STRIKE_WINDOW`] that open the breaker.
const STRIKES: usize = 3;
const STRIKE_WINDOW: Duration = Duration::from_secs(10);
/// More faults than this among the last [`RATE_CALLS`] calls open it too: one in a hundred.
const RATE_FAULTS: usize = 10;
const RATE_CALLS: u64 = 1000;
/// Calls that must go well, one a [`PROBE_GAP`] at most, before it closes again.
const PROBES: u32 = 5;
const PROBE_GAP: Duration = Duration::from_millis(200);
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(600);

/// Closed: calls pass. Open: none does. Half-open: a call now and then, to see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    #[default]
    Closed,
    Open,
    HalfOpen,
}

/// How a policy has behaved.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Faults {
    /// Faults that a second try did not mend, and answers that made no sense.
    pub strikes: u64,
    /// Traps that a fresh instance made good.
    pub retried: u64,
    /// The newest fault.
    pub last: Option<String>,
    pub breaker: BreakerState,
    /// Times that the breaker opened.
    pub opened: u32,
}

/// Counts faults; looked at before every call, locked only where something is wrong.
pub(super) struct Breaker {
    /// Spares the lock while all is well.
    closed: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    faults: Faults,
    strikes: VecDeque<Instant>,
    /// Numbers of the calls that went wrong.
    calls: VecDeque<u64>,
    next_probe: Option<Instant>,
    probes_well: u32,
    backoff: Duration,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self { closed: AtomicBool::new(true), inner: Mutex::default() }
    }

    pub(super) fn is_closed(&self) -> bool {
        // Relaxed: whoever reads it late makes one call more or less.
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether a call may be made now. Where the breaker is open, one that may is a probe.
    pub(super) fn allows(&self, now: Instant) -> bool {
        if self.is_closed() {
            return true;
        }
        let mut inner = self.lock();
        match inner.next_probe {
            Some(at) if now >= at => {
                inner.faults.breaker = BreakerState::HalfOpen;
                inner.next_probe = Some(now + PROBE_GAP);
                true
            }
            _ => false,
        }
    }

    /// A call went well. Only of interest while the breaker is not closed. True where that closed it.
    pub(super) fn went_well(&self) -> bool {
        if self.is_closed() {
            return false;
        }
        let mut inner = self.lock();
        if inner.faults.breaker != BreakerState::HalfOpen {
            return false; // a call from before it opened
        }
        inner.probes_well += 1;
        if inner.probes_well < PROBES {
            return false;
        }
        inner.strikes.clear();
        inner.calls.clear();
        inner.faults.breaker = BreakerState::Closed;
        self.closed.store(true, Ordering::Relaxed);
        true
    }

    /// The `call`-th call went wrong; `mended` by a fresh instance it is no strike, but counts for the
    /// rate. True where that opened the breaker.
    pub(super) fn went_wrong(&self, fault: &str, call: u64, mended: bool, now: Instant) -> bool {
        let mut inner = self.lock();
        inner.faults.last = Some(fault.to_owned());
        inner.calls.push_back(call);
        while inner.calls.front().is_some_and(|&first| first + RATE_CALLS <= call)
            || inner.calls.len() > RATE_FAULTS + 1
        {
            inner.calls.pop_front();
        }
        if mended {
            inner.faults.retried += 1;
        } else {
            inner.faults.strikes += 1;
            inner.strikes.push_back(now);
            let old = |at: &Instant| now.saturating_duration_since(*at) >= STRIKE_WINDOW;
            while inner.strikes.front().is_some_and(old) {
                inner.strikes.pop_front();
            }
        }
        let enough = inner.strikes.len() >= STRIKES || inner.calls.len() > RATE_FAULTS;
        match inner.faults.breaker {
            BreakerState::Closed if enough => inner.open(now, FIRST_BACKOFF),
            // One more is enough to know.
            BreakerState::HalfOpen if !mended => {
                let longer = (inner.backoff * 2).min(LONGEST_BACKOFF);
                inner.open(now, longer);
            }
            _ => return false,
        }
        self.closed.store(false, Ordering::Relaxed);
        true
    }

    pub(super) fn faults(&self) -> Faults {
        self.lock().faults.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    fn open(&mut self, now: Instant, backoff: Duration) {
        self.faults.breaker = BreakerState::Open;
        self.faults.opened += 1;
        self.backoff = backoff;
        self.next_probe = Some(now + backoff);
        self.probes_well = 0;
        // What led here is spent: the next verdict is on what comes.
        self.strikes.clear();
        self.calls.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn three_strikes_in_ten_seconds_open_it() {
        let (breaker, t) = (Breaker::new(), Instant::now());
        assert!(!breaker.went_wrong("a", 1, false, t));
        assert!(!breaker.went_wrong("b", 500, false, after(t, 6.0)));
        assert!(!breaker.went_wrong("c", 1600, false, after(t, 11.0))); // the first is forgotten
        assert!(breaker.is_closed());
        assert!(breaker.went_wrong("d", 2700, false, after(t, 12.0)));
        assert!(!breaker.allows(after(t, 13.0)));
        let faults = breaker.faults();
        assert_eq!(
            (faults.strikes, faults.breaker, faults.last.as_deref()),
            (4, BreakerState::Open, Some("d"))
        );
    }

    #[test]
    fn more_than_one_in_a_hundred_opens_it() {
        let (breaker, t) = (Breaker::new(), Instant::now());
        for n in 0..20 {
            // Just one in a hundred, each made good by a fresh instance.
            assert!(!breaker.went_wrong("a", n * 100, true, after(t, n as f64 * 20.0)), "{n}");
        }
        assert!(breaker.went_wrong("a", 1901, true, after(t, 999.0)));
    }

    #[test]
    fn it_is_tried_again_with_growing_patience() {
        let (breaker, t) = (Breaker::new(), Instant::now());
        let opened = (0..3).map(|n| breaker.went_wrong("a", n, false, t));
        assert_eq!(opened.filter(|opened| *opened).count(), 1);
        assert!(!breaker.allows(after(t, 9.9)) && breaker.allows(after(t, 10.0)));
        assert!(!breaker.allows(after(t, 10.1)), "one probe at a time");
        assert!(breaker.went_wrong("still", 4, false, after(t, 10.1)), "a failed probe opens it again");
        assert!(!breaker.allows(after(t, 30.0)) && breaker.allows(after(t, 30.1)));
        let closed: Vec<bool> = (0..5).map(|_| breaker.went_well()).collect();
        assert_eq!(closed, [false, false, false, false, true]);
        assert!(breaker.is_closed() && breaker.allows(t));
    }
}
