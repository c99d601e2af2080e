//! Threads that share the work of one forward.
//!
//! A forward is a few hundred short regions, each a handful of tasks that any thread may take. The
//! caller always works too, so that a thread that the system has put aside is never waited for unless
//! it holds a task. Between the regions of one forward the threads spin; when none comes they sleep.

use std::{
    any::Any,
    cell::UnsafeCell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long a thread spins for the next region before it sleeps: longer than the gaps inside a forward,
/// far shorter than anything that shows as load on an idle machine.
const SPIN: Duration = Duration::from_micros(150);
/// Spins between two looks at the clock.
const SPINS_A_LOOK: u32 = 64;
/// Bits of a count of tasks in [`Shared::claims`]; a region never has more.
const COUNT_BITS: u32 = 20;
/// Tasks of a region at most; callers make larger tasks instead.
pub const MAX_TASKS: usize = (1 << COUNT_BITS) / 2;

type Task<'a> = &'a (dyn Fn(usize) + Sync + 'a);

/// The threads. Dropping it ends them.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// The region's number, how many tasks it has, and how many are claimed: one word, so that whoever
    /// claims a task knows which region it is of.
    claims: AtomicU64,
    /// Tasks of the region that are done.
    done: AtomicUsize,
    /// Valid while a task of the region is claimed and not done.
    task: UnsafeCell<Option<Task<'static>>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleeping: Mutex<usize>,
    /// Read without the lock by callers; written under it.
    any_asleep: AtomicBool,
    wake: Condvar,
    stop: AtomicBool,
}

// SAFETY: `task` is written only by the caller of `run`, while no task is claimed (all of the last
// region's are done), and published by the store to `claims` that every reader acquires.
unsafe impl Sync for Shared {}
// SAFETY: as above; the closure behind it is `Sync`.
unsafe impl Send for Shared {}

impl Pool {
    /// `threads` in all, the caller's included; at least 1.
    ///
    /// Errors where the system gives no thread.
    pub fn new(name: &str, threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            claims: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            task: UnsafeCell::new(None),
            panic: Mutex::new(None),
            sleeping: Mutex::new(0),
            any_asleep: AtomicBool::new(false),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let spawn = |n: usize| {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("{name}-{n}"));
            thread.spawn(move || shared.work())
        };
        let threads = (1..threads.max(1)).map(spawn).collect::<std::io::Result<_>>()?;
        Ok(Self { shared, threads })
    }

    /// Threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Runs `task(0)` to `task(count - 1)`, each once, on any thread; returns when all are done. A panic
    /// in one of them comes out here. `&mut`: one region at a time.
    pub fn run(&mut self, count: usize, task: impl Fn(usize) + Sync) {
        if self.threads.is_empty() || count < 2 {
            (0..count).for_each(task);
            return;
        }
        assert!(count <= MAX_TASKS, "{count} tasks in one region");
        let task: Task<'_> = &task;
        // SAFETY: only the lifetime changes. No thread uses it after this function has returned: it
        // waits until every task that could be claimed is done, and a claim fails from then on.
        let task: Task<'static> = unsafe { std::mem::transmute(task) };
        // SAFETY: all tasks of the region before are done, so nobody reads it now.
        unsafe { *self.shared.task.get() = Some(task) };
        self.shared.done.store(0, Ordering::Relaxed);
        let region = (self.shared.claims.load(Ordering::Relaxed) >> (2 * COUNT_BITS)).wrapping_add(1);
        let word = (region << (2 * COUNT_BITS)) | ((count as u64) << COUNT_BITS);
        // Sequentially consistent with `any_asleep`: either a thread that falls asleep sees the region,
        // or it is seen asleep here.
        self.shared.claims.store(word, Ordering::SeqCst);
        if self.shared.any_asleep.load(Ordering::SeqCst) {
            let _held = self.shared.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.wake.notify_all();
        }
        self.shared.take_tasks();
        let mut spins = 0u32;
        while self.shared.done.load(Ordering::Acquire) < count {
            spins += 1;
            // Whoever has the last task may be waiting for this very core.
            if spins.is_multiple_of(4096) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        let panic = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _held = self.shared.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.wake.notify_all();
        }
        for thread in self.threads.drain(..) {
            // Its panics come out of `run`.
            thread.join().ok();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

/// Claimed and all, of a word of claims.
fn counts(word: u64) -> (usize, usize) {
    let mask = (1 << COUNT_BITS) - 1;
    ((word & mask) as usize, ((word >> COUNT_BITS) & mask) as usize)
}

impl Shared {
    /// Until there is none left to claim.
    fn take_tasks(&self) {
        loop {
            let (claimed, all) = counts(self.claims.load(Ordering::Acquire));
            if claimed >= all {
                return;
            }
            // The word may have changed since: what counts is what this returns. Claims past the end
            // add up to one a thread at most, far from the bits above.
            let (claimed, all) = counts(self.claims.fetch_add(1, Ordering::AcqRel));
            if claimed >= all {
                return;
            }
            // SAFETY: a task of the current region is claimed and not done, so `run` has not returned.
            let task = unsafe { *self.task.get() };
            if let Some(task) = task
                && let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(claimed)))
            {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }

    fn has_work(&self) -> bool {
        let (claimed, all) = counts(self.claims.load(Ordering::SeqCst));
        claimed < all || self.stop.load(Ordering::Relaxed)
    }

    fn work(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            self.take_tasks();
            if !self.spin() {
                self.sleep();
            }
        }
    }

    /// Whether there is work, before patience ends.
    fn spin(&self) -> bool {
        let began = Instant::now();
        loop {
            for _ in 0..SPINS_A_LOOK {
                if self.has_work() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if began.elapsed() > SPIN {
                return false;
            }
        }
    }

    fn sleep(&self) {
        let mut sleeping = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
        *sleeping += 1;
        self.any_asleep.store(true, Ordering::SeqCst);
        while !self.has_work() {
            sleeping = self.wake.wait(sleeping).unwrap_or_else(PoisonError::into_inner);
        }
        *sleeping -= 1;
        self.any_asleep.store(*sleeping > 0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 5] {
            let mut pool = Pool::new("test", threads).unwrap();
            for count in [0, 1, 2, 3, 17, 1000] {
                let ran: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                pool.run(count, |i| {
                    ran[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(ran.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn regions_follow_one_another_and_threads_wake_again() {
        let mut pool = Pool::new("test", 3).unwrap();
        let sum = AtomicUsize::new(0);
        for region in 0..2000 {
            pool.run(4, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            if region % 500 == 0 {
                std::thread::sleep(SPIN * 4);
            }
        }
        assert_eq!(sum.into_inner(), 2000 * 6);
    }

    #[test]
    fn a_panic_comes_out_and_the_pool_lives() {
        let mut pool = Pool::new("test", 2).unwrap();
        let run = catch_unwind(AssertUnwindSafe(|| pool.run(8, |i| assert!(i != 5, "five"))));
        assert!(run.is_err());
        let ran = AtomicUsize::new(0);
        pool.run(8, |_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.into_inner(), 8);
    }
}
