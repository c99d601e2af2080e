//! A model in parts on several devices: each rank holds some heads and some of the feed-forward, and what they add to the
//! residual stream is summed over all ranks, in their order, so that every rank goes on with the same bits.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::ModelError;

/// Which part of a model.
pub struct Shard {
    pub rank: usize,
    /// Ranks in all.
    pub size: usize,
    pub communicator: Box<dyn Communicator>,
}

/// What the ranks of one model meet by.
pub trait Communicator: Send {
    /// `data` becomes the sum over all ranks, each of which calls this as often as the others and with as much.
    ///
    /// An error is one of all ranks, and of every call after it: a rank did not come in time, or is gone.
    fn all_reduce(&mut self, data: &mut [f32]) -> Result<(), ModelError>;

    /// Nobody waits for this rank any more.
    fn abort(&mut self);

    /// Whether there will be no further meeting.
    fn is_aborted(&self) -> bool;
}

/// Ranks that are threads of one process and meet in its memory.
pub struct Loopback {
    rank: usize,
    meeting: Arc<Meeting>,
}

struct Meeting {
    size: usize,
    /// How long those who are there wait for the others.
    limit: Duration,
    now: Mutex<Now>,
    changed: Condvar,
}

struct Now {
    /// Meetings that are over.
    over: u64,
    /// What each rank has brought; `None`: it is not there yet.
    brought: Vec<Option<Vec<f32>>>,
    /// Of the last meeting.
    sum: Arc<Vec<f32>>,
    /// Why there will be no further one.
    aborted: Option<String>,
}

impl Loopback {
    /// One for each of `size` ranks; `limit`: how long a rank is waited for.
    pub fn ranks(size: usize, limit: Duration) -> Vec<Self> {
        let brought = (0..size).map(|_| None).collect();
        let now = Now { over: 0, brought, sum: Arc::default(), aborted: None };
        let meeting = Arc::new(Meeting { size, limit, now: Mutex::new(now), changed: Condvar::new() });
        (0..size).map(|rank| Self { rank, meeting: Arc::clone(&meeting) }).collect()
    }
}

impl Communicator for Loopback {
    fn all_reduce(&mut self, data: &mut [f32]) -> Result<(), ModelError> {
        let meeting = &*self.meeting;
        let mut now = meeting.lock();
        if let Some(why) = &now.aborted {
            return Err(ModelError(why.clone()));
        }
        now.brought[self.rank] = Some(data.to_vec());
        if now.brought.iter().all(Option::is_some) {
            let brought: Vec<Vec<f32>> = now.brought.iter_mut().filter_map(Option::take).collect();
            if brought.iter().any(|part| part.len() != data.len()) {
                return Err(
                    meeting.abort(now, "the ranks have brought parts of different lengths".to_owned())
                );
            }
            // In the order of the ranks, whoever came last.
            let mut parts = brought.into_iter();
            let mut sum = parts.next().unwrap_or_default();
            parts.for_each(|part| neuron_kernels::ops::add(&mut sum, &part));
            (now.sum, now.over) = (Arc::new(sum), now.over + 1);
            meeting.changed.notify_all();
        } else {
            let (this, until) = (now.over, Instant::now() + meeting.limit);
            while now.over == this {
                if let Some(why) = &now.aborted {
                    return Err(ModelError(why.clone()));
                }
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    let missing: Vec<String> = (0..meeting.size)
                        .filter(|rank| now.brought[*rank].is_none())
                        .map(|rank| rank.to_string())
                        .collect();
                    let (missing, limit) = (missing.join(", "), meeting.limit);
                    return Err(meeting.abort(now, format!("rank {missing} did not come within {limit:?}")));
                }
                let waited = meeting.changed.wait_timeout(now, left);
                now = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        // It stays until every rank has come again.
        let sum = Arc::clone(&now.sum);
        drop(now);
        data.copy_from_slice(&sum);
        Ok(())
    }

    fn abort(&mut self) {
        self.leave();
    }

    fn is_aborted(&self) -> bool {
        self.meeting.lock().aborted.is_some()
    }
}

impl Loopback {
    fn leave(&self) {
        let why = format!("rank {} is gone", self.rank);
        self.meeting.abort(self.meeting.lock(), why);
    }
}

impl Meeting {
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn abort(&self, mut now: MutexGuard<'_, Now>, why: String) -> ModelError {
        let why = now.aborted.get_or_insert(why).clone();
        self.changed.notify_all();
        ModelError(why)
    }
}

impl Drop for Loopback {
    /// Nobody waits for a rank that is gone.
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn together(size: usize, limit: Duration, run: impl Fn(usize, &mut Loopback) + Sync) {
        std::thread::scope(|scope| {
            for (rank, mut comm) in Loopback::ranks(size, limit).into_iter().enumerate() {
                let run = &run;
                scope.spawn(move || run(rank, &mut comm));
            }
        });
    }

    #[test]
    fn everybody_has_the_sum_of_each_meeting() {
        together(3, Duration::from_secs(60), |rank, comm| {
            for round in 0..500u16 {
                let mut data = vec![f32::from(round) + rank as f32, 1.0];
                comm.all_reduce(&mut data).unwrap();
                assert_eq!(data, [3.0 * f32::from(round) + 3.0, 3.0]);
            }
            // The others may be on their way still.
            comm.all_reduce(&mut [0.0]).unwrap();
        });
    }

    #[test]
    fn who_does_not_come_ends_it_for_all() {
        let have_given_up = std::sync::Barrier::new(3);
        together(3, Duration::from_millis(300), |rank, comm| {
            if rank == 1 {
                have_given_up.wait();
            }
            let error = comm.all_reduce(&mut [1.0]).unwrap_err().to_string();
            // Whoever waited told the others why.
            assert!(error.contains("did not come within 300ms"), "{error}");
            if rank != 1 {
                have_given_up.wait();
            }
            have_given_up.wait();
        });
        let mut ranks = Loopback::ranks(2, Duration::from_secs(60));
        drop(ranks.pop());
        let error = ranks[0].all_reduce(&mut [1.0]).unwrap_err();
        assert_eq!(error.to_string(), "rank 1 is gone");
        together(2, Duration::from_secs(60), |rank, comm| {
            assert!(comm.all_reduce(&mut vec![1.0; rank + 1]).is_err());
        });
    }
}
