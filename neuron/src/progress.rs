//! How far a load is, told by whoever is at work on it and read by whoever watches.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use neuron_protocol::{LoadPhase, LoadProgress};

/// One load's progress.
#[derive(Debug)]
pub(crate) struct Progress {
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    phase: LoadPhase,
    since: Instant,
    /// Bytes that the phase has moved; counted by the engine while it reads.
    done: Arc<AtomicU64>,
    /// What had been moved before it began: the speed is that of the rest.
    from: u64,
    /// 0 = unknown.
    total: u64,
}

impl Default for Progress {
    fn default() -> Self {
        let (phase, since) = (LoadPhase::Checking, Instant::now());
        let now = Now { phase, since, done: Arc::default(), from: 0, total: 0 };
        Self { now: Mutex::new(now) }
    }
}

impl Progress {
    /// A phase begins. `total`: bytes that it moves, 0 where unknown.
    pub(crate) fn enter(&self, phase: LoadPhase, total: u64) {
        self.enter_counted(phase, total, Arc::default());
    }

    /// As [`Self::enter`]; `done` counts the bytes.
    pub(crate) fn enter_counted(&self, phase: LoadPhase, total: u64, done: Arc<AtomicU64>) {
        let from = done.load(Relaxed);
        *self.lock() = Now { phase, since: Instant::now(), done, from, total };
    }

    /// As it goes over the wire. `model`: the id in /models.
    pub(crate) fn of(&self, model: &str) -> LoadProgress {
        let now = self.lock();
        let (done, total) = (now.done.load(Relaxed), now.total);
        let speed = speed(done, now.from, now.since.elapsed().as_secs_f64());
        LoadProgress {
            model: model.to_owned(),
            phase: now.phase,
            bytes_done: if total > 0 { done.min(total) } else { done },
            bytes_total: total,
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "of bytes")]
            bytes_per_sec: speed.map(|speed| speed as u64),
            seconds_left: speed.and_then(|speed| seconds_left(done, total, speed)),
            failure: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes a second of a phase that began with `from` done; `None`: the first moments say little about it.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn speed(done: u64, from: u64, seconds: f64) -> Option<f64> {
    let moved = done.saturating_sub(from);
    (moved > 0 && seconds >= 0.5).then(|| moved as f64 / seconds)
}

/// What is left at that speed, in tenths of seconds.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn seconds_left(done: u64, total: u64, speed: f64) -> Option<f64> {
    (total > 0).then(|| (total.saturating_sub(done) as f64 / speed * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_what_is_done_did() {
        let left = |done, from, total, seconds| {
            speed(done, from, seconds).and_then(|speed| seconds_left(done, total, speed))
        };
        assert_eq!(left(25, 0, 100, 1.0), Some(3.0));
        assert_eq!(left(0, 0, 100, 1.0), None);
        assert_eq!(left(25, 0, 0, 1.0), None);
        assert_eq!(left(25, 0, 100, 0.1), None);
        // What was there before says nothing of the speed.
        assert_eq!(left(60, 50, 100, 1.0), Some(4.0));
        assert_eq!(left(50, 50, 100, 1.0), None);
        assert_eq!(speed(60, 50, 2.0), Some(5.0));
    }

    #[test]
    fn what_is_counted_is_seen() {
        let (progress, counter) = (Progress::default(), Arc::new(AtomicU64::new(0)));
        progress.enter_counted(LoadPhase::Reading, 10, Arc::clone(&counter));
        counter.store(12, Relaxed);
        let said = progress.of("m");
        assert_eq!((said.phase, said.bytes_done, said.bytes_total), (LoadPhase::Reading, 10, 10));
    }
}
