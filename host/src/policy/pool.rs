//! Warm instances: a call finds one that is ready, and never waits for another call.

use super::instance::{Fault, Problem};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, TryLockError};

/// Instances striped by worker thread: a worker meets its own one, so locks are almost never contended.
pub(super) struct Pool<T> {
    /// Boxed, so that taking one moves a pointer.
    slots: Box<[Mutex<Option<Box<T>>>]>,
}

/// An answer, and the fault that a second try made good.
#[derive(Debug)]
pub(super) struct Judged<R> {
    pub(super) answer: R,
    pub(super) mended: Option<Fault>,
}

impl<T> Pool<T> {
    pub(super) fn new() -> Self {
        let slots = std::thread::available_parallelism().map_or(4, usize::from) * 2;
        Self { slots: (0..slots).map(|_| Mutex::new(None)).collect() }
    }

    /// Puts an instance where this worker will find it.
    pub(super) fn seed(&self, instance: T) {
        if let Ok(mut slot) = self.slot().try_lock() {
            *slot = Some(Box::new(instance));
        }
    }

    /// Runs `call` on a warm instance, or on one that `fresh` makes where the worker's is taken or absent.
    ///
    /// An instance that faulted is dropped: its memory may be torn. One that trapped is not yet believed
    /// to be the policy's doing: the call is made once more on a fresh instance. `spent` ones are dropped.
    pub(super) fn with<R>(
        &self,
        fresh: impl Fn() -> Result<T, Problem>,
        call: impl Fn(&mut T) -> Result<R, Problem>,
        spent: impl Fn(&T) -> bool,
    ) -> Result<Judged<R>, Problem> {
        let mut guard = match self.slot().try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        let mut instance = match guard.as_mut().and_then(|g| g.take()) {
            Some(instance) => instance,
            None => Box::new(fresh()?),
        };
        let mut mended = None;
        let mut answer = call(&mut instance);
        if let Err(Problem::Fault(fault @ (Fault::Trap(_) | Fault::Memory(_)))) = answer {
            instance = Box::new(fresh()?);
            answer = call(&mut instance);
            mended = Some(fault);
        }
        let keep = !matches!(answer, Err(Problem::Fault(_))) && !spent(&instance);
        if let Some(guard) = guard.as_mut().filter(|_| keep) {
            **guard = Some(instance);
        }
        answer.map(|answer| Judged { answer, mended })
    }

    fn slot(&self) -> &Mutex<Option<Box<T>>> {
        &self.slots[worker() % self.slots.len()]
    }
}

/// A number for this thread, dense over the threads that ask.
fn worker() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static WORKER: Cell<Option<usize>> = const { Cell::new(None) });
    WORKER.with(|worker| {
        worker.get().unwrap_or_else(|| {
            // Relaxed: only distinctness matters.
            let mine = NEXT.fetch_add(1, Ordering::Relaxed);
            worker.set(Some(mine));
            mine
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trap() -> Problem {
        Fault::Trap("x".into()).into()
    }

    #[test]
    fn a_trap_is_tried_again_on_a_fresh_instance_only() {
        let pool = Pool::new();
        pool.seed(1);
        let fresh = || Ok(2);
        let never = |_: &i32| false;
        let bad_one = |n: &mut i32| if *n == 1 { Err(trap()) } else { Ok(*n) };
        let Judged { answer, mended } = pool.with(fresh, bad_one, never).unwrap();
        assert_eq!((answer, mended), (2, Some(Fault::Trap("x".into()))));
        // The fresh one stayed, and one that always traps gives up after two tries.
        let tries = Cell::new(0);
        let bad = |n: &mut i32| -> Result<(), Problem> {
            assert_eq!(*n, 2);
            tries.set(tries.get() + 1);
            Err(trap())
        };
        assert_eq!(pool.with(fresh, bad, never).unwrap_err(), trap());
        assert_eq!(tries.get(), 2);
    }

    #[test]
    fn spent_and_declining_instances() {
        let pool = Pool::new();
        pool.seed(1);
        let fresh = || Ok(2);
        let declined = Problem::Declined(super::super::Declined::Unsupported("no".into()));
        assert!(pool.with(fresh, |_| Err::<(), _>(declined.clone()), |_| false).is_err());
        assert_eq!(pool.with(fresh, |n| Ok(*n), |_| true).unwrap().answer, 1, "declining is no fault");
        assert_eq!(pool.with(fresh, |n| Ok(*n), |_| false).unwrap().answer, 2, "the spent one is gone");
    }
}
