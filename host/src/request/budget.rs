//! How often requests may be tried again elsewhere after a node refused them: a fleet that is overloaded is not made
//! more so by its own gateway.

use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// Tries that each request brings.
const PER_REQUEST: f64 = 0.2;
/// And each second, so that a quiet fleet has some.
const PER_SECOND: f64 = 10.0;
/// What may be saved up.
const MOST: f64 = 100.0;

/// One for the gateway.
#[derive(Debug)]
pub struct RetryBudget {
    state: Mutex<(f64, Instant)>,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { state: Mutex::new((MOST, Instant::now())) }
    }
}

impl RetryBudget {
    /// A request has come.
    pub(super) fn earn(&self) {
        self.change(|level| *level += PER_REQUEST);
    }

    /// Whether one more try is in it; then it is taken.
    pub(super) fn spend(&self) -> bool {
        self.change(|level| {
            let is_there = *level >= 1.0;
            *level -= if is_there { 1.0 } else { 0.0 };
            is_there
        })
    }

    fn change<T>(&self, what: impl FnOnce(&mut f64) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (level, then) = *state;
        let mut level = (level + (now - then).as_secs_f64() * PER_SECOND).min(MOST);
        let outcome = what(&mut level);
        *state = (level, now);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_fifth_of_the_requests_and_ten_a_second() {
        let budget = RetryBudget::default();
        let all =
            |budget: &RetryBudget| std::iter::from_fn(|| budget.spend().then_some(())).take(1000).count();
        assert_eq!(all(&budget), 100);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(all(&budget), 10);
        for _ in 0..100 {
            budget.earn();
        }
        assert!((19..=20).contains(&all(&budget)));
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(all(&budget), 100);
    }
}
