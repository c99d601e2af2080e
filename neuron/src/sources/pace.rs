//! A bound on the bytes that come in a second, for all downloads of a source together.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Unused time is worth nothing past this: what comes after a pause comes no faster.
const BURST: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub struct Pace {
    /// 0: no bound.
    bytes_per_sec: u64,
    /// When what has been taken will have been worth its time.
    paid: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(bytes_per_sec: u64) -> Self {
        Self { bytes_per_sec, paid: Mutex::default() }
    }

    /// Waits until so many more bytes may have come.
    pub(crate) async fn take(&self, bytes: usize) {
        if self.bytes_per_sec > 0 {
            tokio::time::sleep(self.wait(bytes, Instant::now())).await;
        }
    }

    fn wait(&self, bytes: usize, now: Instant) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a time to wait")]
        let worth = Duration::from_secs_f64(bytes as f64 / self.bytes_per_sec as f64);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let from = paid.map_or(now, |paid| paid.max(now.checked_sub(BURST).unwrap_or(now)));
        *paid = Some(from + worth);
        (from + worth).saturating_duration_since(now)
    }
}

/// Two that allow as much are alike.
impl PartialEq for Pace {
    fn eq(&self, other: &Self) -> bool {
        self.bytes_per_sec == other.bytes_per_sec
    }
}

impl Eq for Pace {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_and_pauses_do_not_add_up() {
        let (pace, now) = (Pace::new(1000), Instant::now());
        assert_eq!(pace.wait(500, now), Duration::from_millis(500));
        assert_eq!(pace.wait(500, now), Duration::from_millis(1000));
        assert_eq!(pace.wait(500, now + Duration::from_millis(900)), Duration::from_millis(600));
        assert_eq!(pace.wait(500, now + Duration::from_secs(60)), Duration::from_millis(400));
    }
}
