//! So much a minute.

use std::time::{Duration, Instant};

const MINUTE: f64 = 60.0;

/// Fills evenly, up to what a minute brings; full at first. What turned out to be more than was taken is owed.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    level: f64,
    filled: Option<Instant>,
}

impl Bucket {
    /// Whether `amount` is there; else when it will be. A larger one than `limit` needs it to be full.
    pub(super) fn look(&mut self, limit: u64, amount: u64, now: Instant) -> Result<(), Duration> {
        let rate = limit as f64 / MINUTE;
        self.level = match self.filled {
            None => limit as f64,
            Some(then) => self.level + now.saturating_duration_since(then).as_secs_f64() * rate,
        };
        self.level = self.level.min(limit as f64);
        self.filled = Some(now);
        let amount = amount.clamp(1, limit) as f64;
        // A millionth less is a rounding error.
        let missing = amount - self.level - 1e-6;
        if missing <= 0.0 { Ok(()) } else { Err(Duration::from_secs_f64(missing / rate)) }
    }

    pub(super) fn take(&mut self, amount: u64) {
        self.level -= amount as f64;
    }

    /// `taken` was the estimate of `used`.
    pub(super) fn settle(&mut self, taken: u64, used: u64) {
        if self.filled.is_none() {
            return; // nobody bounds it
        }
        self.level += taken as f64 - used as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_brings_the_limit_and_no_more() {
        let (mut bucket, start) = (Bucket::default(), Instant::now());
        for _ in 0..60 {
            assert_eq!(bucket.look(60, 1, start), Ok(()));
            bucket.take(1);
        }
        assert_eq!(bucket.look(60, 1, start).map_err(|wait| wait.as_secs_f64().round()), Err(1.0));
        assert_eq!(bucket.look(60, 1, start + Duration::from_secs(1)), Ok(()));
        let later = start + Duration::from_secs(7200);
        assert_eq!(bucket.look(60, 60, later), Ok(()));
        assert_eq!(bucket.look(60, 1000, later), Ok(()), "larger than the limit: when it is full");
        bucket.take(60);
        bucket.settle(60, 120);
        assert_eq!(bucket.look(60, 1, later).map_err(|wait| wait.as_secs_f64().round()), Err(61.0));
        assert_eq!(
            bucket.look(6000, 1, later + Duration::from_secs(1)),
            Ok(()),
            "a new limit counts at once"
        );
    }
}
