//! A circuit breaker for each node: one whose answers keep failing, though it says that it is well, is left alone for
//! a while and then tried by one request.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Failures in a row after which it opens.
const FAILURES: u32 = 5;
/// How long it is open the first time; twice as long each further time.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// A trial that has not said by then how it ended does not keep others from trying.
const TRIAL: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// There is something to look at: spares the lock where all is well.
    marked: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Times in a row that it opened.
    opened: u32,
    until: Option<Instant>,
    trial: Option<Instant>,
}

/// What an outcome has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Opened(Duration),
    Closed,
}

impl Breaker {
    /// For how long it is still open.
    pub(super) fn open_for(&self) -> Option<Duration> {
        if !self.marked.load(Ordering::Relaxed) {
            return None;
        }
        let left = self.lock().until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Neither open nor half open.
    pub(super) fn is_closed(&self) -> bool {
        !self.marked.load(Ordering::Relaxed) || self.lock().until.is_none()
    }

    /// Whether a request may go there, as far as this is concerned; half open, one at a time.
    pub(super) fn lets_pass(&self) -> bool {
        if !self.marked.load(Ordering::Relaxed) {
            return true;
        }
        let state = self.lock();
        match state.until {
            None => true,
            Some(until) if until > Instant::now() => false,
            Some(_) => state.trial.is_none_or(|since| since.elapsed() > TRIAL),
        }
    }

    /// A request goes there.
    pub(super) fn tries(&self) {
        if self.marked.load(Ordering::Relaxed) {
            let mut state = self.lock();
            if state.until.is_some() {
                state.trial = Some(Instant::now());
            }
        }
    }

    pub(super) fn succeeded(&self) -> Option<Change> {
        if !self.marked.swap(false, Ordering::Relaxed) {
            return None;
        }
        let was_open = std::mem::take(&mut *self.lock()).until.is_some();
        was_open.then_some(Change::Closed)
    }

    pub(super) fn failed(&self) -> Option<Change> {
        let mut state = self.lock();
        self.marked.store(true, Ordering::Relaxed);
        state.failures += 1;
        let now = Instant::now();
        let is_open = state.until.is_some_and(|until| until > now);
        // Those that were sent before it opened say nothing new.
        if is_open || (state.until.is_none() && state.failures < FAILURES) {
            return None;
        }
        let time = FIRST.saturating_mul(1 << state.opened.min(10)).min(LONGEST);
        state.opened += 1;
        (state.until, state.trial) = (Some(now + time), None);
        Some(Change::Opened(time))
    }

    /// A trial that came to nothing: its client left, or it was refused for a reason of its own.
    pub(super) fn undecided(&self) {
        if self.marked.load(Ordering::Relaxed) {
            self.lock().trial = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(breaker: &Breaker, times: u32) -> Option<Change> {
        (0..times).map(|_| breaker.failed()).last().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_tries_once_and_opens_for_longer() {
        let breaker = Breaker::default();
        assert_eq!(fail(&breaker, FAILURES - 1), None);
        assert!(breaker.lets_pass());
        assert_eq!(breaker.failed(), Some(Change::Opened(FIRST)));
        assert!(!breaker.lets_pass() && breaker.open_for() == Some(FIRST));
        assert_eq!(breaker.failed(), None, "those under way say nothing new");
        tokio::time::advance(FIRST).await;
        assert!(breaker.lets_pass() && breaker.open_for().is_none());
        breaker.tries();
        assert!(!breaker.lets_pass(), "one at a time");
        assert_eq!(breaker.failed(), Some(Change::Opened(FIRST * 2)));
        tokio::time::advance(FIRST * 2).await;
        breaker.tries();
        assert_eq!(breaker.succeeded(), Some(Change::Closed));
        assert!(breaker.lets_pass() && breaker.succeeded().is_none());
        assert_eq!(fail(&breaker, FAILURES), Some(Change::Opened(FIRST)), "and begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_between_failures_and_a_trial_without_an_end() {
        let breaker = Breaker::default();
        for _ in 0..3 {
            assert_eq!(fail(&breaker, FAILURES - 1), None);
            assert_eq!(breaker.succeeded(), None);
        }
        fail(&breaker, FAILURES);
        tokio::time::advance(FIRST).await;
        breaker.tries();
        assert!(!breaker.lets_pass());
        breaker.undecided();
        assert!(breaker.lets_pass());
        breaker.tries();
        tokio::time::advance(TRIAL + Duration::from_secs(1)).await;
        assert!(breaker.lets_pass());
        for _ in 0..20 {
            fail(&breaker, 1);
            tokio::time::advance(LONGEST).await;
        }
        assert_eq!(breaker.failed(), Some(Change::Opened(LONGEST)), "no longer than this");
    }
}
