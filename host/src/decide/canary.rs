//! A policy on trial: it decides for a share of the requests, and loses it by itself.

use crate::config;
use crate::policy::{Generation, RouteRequest};
use serde::Serialize;
use std::sync::{Mutex, PoisonError};

/// Answers on each side before their error rates are compared.
const ENOUGH: u64 = 30;
/// Standard deviations by which the canary must be worse: one time in 700 by chance.
const SURE: f64 = 3.0;

/// Whose decision a request followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Arm {
    /// Also the built-in's.
    #[default]
    Live,
    Canary,
}

/// Requests of one arm and how many of them failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub answers: u64,
    pub errors: u64,
}

/// One version of a policy on trial. A new file, or another one named, makes a new trial.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Trial {
    pub policy: String,
    pub sha256: String,
    pub canary: Tally,
    pub live: Tally,
    /// Why it lost its share.
    pub withdrawn: Option<String>,
}

/// The trial under way.
#[derive(Default)]
pub(super) struct Canary {
    trial: Mutex<Trial>,
}

impl Canary {
    /// Whether the canary decides for this request. The turns of a conversation stay together.
    pub(super) fn takes(&self, config: &config::Canary, policy: &Generation, asked: &RouteRequest) -> bool {
        let mut trial = self.lock();
        if trial.policy != policy.name || trial.sha256 != policy.sha256 {
            let (policy, sha256) = (policy.name.clone(), policy.sha256.clone());
            *trial = Trial { policy, sha256, ..Trial::default() };
        }
        trial.withdrawn.is_none() && share(asked) < u64::from(config.percent)
    }

    /// Takes its share back, for good. The reason's first word or two go to a metric.
    pub(super) fn withdraw(&self, policy: &Generation, reason: String) -> bool {
        let mut trial = self.lock();
        let ours = trial.sha256 == policy.sha256 && trial.withdrawn.is_none();
        if ours {
            let (policy, sha256) = (&trial.policy, &trial.sha256);
            tracing::error!(policy, sha256, reason, "the canary is taken back");
            trial.withdrawn = Some(reason);
        }
        ours
    }

    /// Counts an answer; true where that was the one too many.
    pub(super) fn count(&self, arm: Arm, status: u16) -> bool {
        let mut trial = self.lock();
        if trial.policy.is_empty() || trial.withdrawn.is_some() {
            return false;
        }
        let tally = match arm {
            Arm::Live => &mut trial.live,
            Arm::Canary => &mut trial.canary,
        };
        tally.answers += 1;
        tally.errors += u64::from(status >= 500);
        let worse = worse(trial.canary, trial.live);
        if worse {
            let Trial { policy, sha256, canary, live, .. } = &*trial;
            let reason = format!(
                "{} of {} answers failed, against {} of {} of the live policy",
                canary.errors, canary.answers, live.errors, live.answers
            );
            tracing::error!(policy, sha256, reason, "the canary is taken back");
            trial.withdrawn = Some(reason);
        }
        worse
    }

    /// `None` before the first request of a canary.
    pub(super) fn trial(&self) -> Option<Trial> {
        Some(self.lock().clone()).filter(|t| !t.policy.is_empty())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Trial> {
        self.trial.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 0 to 99, even over conversations.
fn share(asked: &RouteRequest) -> u64 {
    // Fibonacci hashing: sessions and seeds differ in all bits, and the high ones of the product mix them.
    (asked.session.unwrap_or(asked.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % 100
}

/// Whether the canary's errors are more than chance makes of the same rate: the two-proportion z-test.
fn worse(canary: Tally, live: Tally) -> bool {
    if canary.answers < ENOUGH || live.answers < ENOUGH {
        return false;
    }
    let rate = |t: Tally| t.errors as f64 / t.answers as f64;
    let pooled = (canary.errors + live.errors) as f64 / (canary.answers + live.answers) as f64;
    let deviation =
        (pooled * (1.0 - pooled) * (1.0 / canary.answers as f64 + 1.0 / live.answers as f64)).sqrt();
    deviation > 0.0 && (rate(canary) - rate(live)) / deviation > SURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worse_is_worse_beyond_chance() {
        let check = |canary: (u64, u64), live: (u64, u64), want: bool| {
            let tally = |(answers, errors)| Tally { answers, errors };
            assert_eq!(worse(tally(canary), tally(live)), want, "{canary:?} {live:?}");
        };
        check((29, 29), (1000, 0), false); // too few to say
        check((30, 3), (1000, 0), true);
        check((100, 0), (100, 50), false); // better
        check((100, 5), (100, 3), false); // chance
        check((100, 50), (100, 50), false);
        check((1000, 50), (10_000, 100), true);
        check((100, 100), (100, 100), false);
        check((100, 0), (100, 0), false);
    }

    #[test]
    fn shares_are_even_and_sticky() {
        let asked = |session| RouteRequest { session: Some(session), ..RouteRequest::default() };
        let hits = (0..100_000).filter(|&s| share(&asked(s)) < 10).count();
        assert!((9_000..11_000).contains(&hits), "{hits}");
        assert_eq!(share(&asked(7)), share(&RouteRequest { seed: 99, ..asked(7) }));
    }
}
