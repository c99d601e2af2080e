//! Grammars that bind what a sequence may say.
//!
//! Which tokens may come next is worked out on threads of their own while the device runs the next forward; a
//! grammar is lent to such a thread with the token that was drawn, and comes back with the tokens that may
//! follow. A device never waits long for one of its sequences: one whose grammar is not done sits out.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

/// Grammars that wait for a thread: a sequence has one.
const MAX_JOBS: usize = 1024;

/// What binds a sequence, token by token.
pub trait Grammar: Send {
    /// The sequence goes on with this token, which was allowed.
    fn accept(&mut self, token: u32) -> Result<(), String>;

    /// Bits of the tokens that may come next, the lowest bit of each word first; `None`: nothing may.
    fn allowed(&mut self) -> Result<Option<Vec<u32>>, String>;

    /// The same at the same place, for another sequence.
    fn fork(&self) -> Box<dyn Grammar>;
}

/// The threads that grammars are worked out on; dropped with the last guide.
#[derive(Clone)]
pub struct GuideThreads {
    jobs: mpsc::SyncSender<Job>,
}

struct Job {
    grammar: Box<dyn Grammar>,
    token: Option<u32>,
    desk: Arc<Desk>,
}

/// A sequence's grammar.
pub struct Guide {
    desk: Arc<Desk>,
    threads: GuideThreads,
}

/// Where a thread lays what it has worked out.
#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    laid: Condvar,
}

#[derive(Default)]
struct State {
    /// `None` while it is lent.
    grammar: Option<Box<dyn Grammar>>,
    verdict: Option<Verdict>,
}

/// What may come next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Bits of tokens.
    Tokens(Arc<[u32]>),
    /// All is said.
    Over,
    /// Why the grammar cannot go on.
    Failed(String),
}

impl GuideThreads {
    /// Starts `count` threads.
    pub fn start(count: usize) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::sync_channel::<Job>(MAX_JOBS);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..count.max(1) {
            let queue = Arc::clone(&queue);
            let work = move || {
                while let Ok(job) = { lock(&queue).recv() } {
                    job.run();
                }
            };
            std::thread::Builder::new().name(format!("guide-{number}")).spawn(work)?;
        }
        Ok(Self { jobs })
    }
}

impl Job {
    fn run(mut self) {
        let grammar = &mut self.grammar;
        let work = || {
            self.token.map_or(Ok(()), |token| grammar.accept(token))?;
            grammar.allowed()
        };
        let verdict = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(Some(bits))) => Verdict::Tokens(bits.into()),
            Ok(Ok(None)) => Verdict::Over,
            Ok(Err(why)) => Verdict::Failed(why),
            Err(_) => Verdict::Failed("the grammar broke down".to_owned()),
        };
        self.desk.lay(Some(self.grammar), verdict);
    }
}

impl Desk {
    fn lay(&self, grammar: Option<Box<dyn Grammar>>, verdict: Verdict) {
        *lock(&self.state) = State { grammar, verdict: Some(verdict) };
        self.laid.notify_all();
    }
}

impl Guide {
    /// Begins to work out what may come first.
    pub fn new(grammar: Box<dyn Grammar>, threads: &GuideThreads) -> Self {
        let guide = Self { desk: Arc::default(), threads: threads.clone() };
        guide.lend(grammar, None);
        guide
    }

    fn lend(&self, grammar: Box<dyn Grammar>, token: Option<u32>) {
        let job = Job { grammar, token, desk: Arc::clone(&self.desk) };
        match self.threads.jobs.try_send(job) {
            Ok(()) => {}
            // So many sequences at once are none: whoever asks does it itself then.
            Err(mpsc::TrySendError::Full(job) | mpsc::TrySendError::Disconnected(job)) => job.run(),
        }
    }

    /// Whether there is a verdict.
    pub(crate) fn is_ready(&self) -> bool {
        lock(&self.desk.state).verdict.is_some()
    }

    /// What may come next; `None` where that is not known within `patience`.
    pub(crate) fn verdict(&self, patience: Duration) -> Option<Verdict> {
        let until = Instant::now() + patience;
        let mut state = lock(&self.desk.state);
        loop {
            if let Some(verdict) = &state.verdict {
                return Some(verdict.clone());
            }
            let left = until.checked_duration_since(Instant::now())?;
            let waited = self.desk.laid.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The sequence goes on with an allowed token. Only after there was a verdict.
    pub(crate) fn accept(&self, token: u32) {
        let mut state = lock(&self.desk.state);
        let Some(grammar) = state.grammar.take() else { return };
        state.verdict = None;
        drop(state);
        self.lend(grammar, Some(token));
    }
}

impl std::fmt::Debug for Guide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guide").finish_non_exhaustive()
    }
}

/// What is locked is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
