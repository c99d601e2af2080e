//! Where requests for one model wait until a node can start them.

use super::LoadFailure;
use super::queue::{Priority, Queue};
use super::survey::Survey;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// One model's queue.
pub struct Desk {
    model: String,
    state: Mutex<State>,
    /// What the last decision on it has found.
    pub(super) survey: Mutex<Survey>,
}

#[derive(Default)]
struct State {
    queue: Queue<Arc<Turn>>,
    /// Since when somebody has waited without a pause.
    crowded_since: Option<Instant>,
}

/// What one who waits is told by.
#[derive(Default)]
struct Turn {
    notify: Notify,
    /// It is in vain.
    told: OnceLock<LoadFailure>,
}

/// A place in the queue; left when it is dropped.
pub(super) struct Place {
    desk: Arc<Desk>,
    id: u64,
    turn: Arc<Turn>,
}

impl Desk {
    pub(super) fn new(model: &str) -> Arc<Self> {
        Arc::new(Self { model: model.to_owned(), state: Mutex::default(), survey: Mutex::default() })
    }

    pub fn model(&self) -> &str {
        &self.model
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// How long the one has waited who has waited longest.
    pub fn longest_wait(&self) -> Option<Duration> {
        self.lock().queue.oldest().map(|since| since.elapsed())
    }

    /// How long there has been somebody waiting without a pause.
    pub(super) fn crowded_for(&self) -> Option<Duration> {
        self.lock().crowded_since.map(|since| since.elapsed())
    }

    /// A place at the end. `limit`: how many may wait; past it the last of the key with most waiting goes, or
    /// nobody does and there is no place.
    pub(super) fn join(
        self: &Arc<Self>,
        tenant: &str,
        priority: Priority,
        tokens: u64,
        limit: usize,
    ) -> Option<Place> {
        let turn = Arc::new(Turn::default());
        let mut state = self.lock();
        if state.queue.len() >= limit {
            let gone = state.queue.crowding(tenant).and_then(|id| state.queue.leave(id, false))?;
            gone.tell(LoadFailure::crowded_out(&self.model));
        }
        let now = Instant::now();
        state.crowded_since.get_or_insert(now);
        let id = state.queue.join(tenant, priority, tokens, now, turn.clone());
        drop(state);
        Some(Place { desk: self.clone(), id, turn })
    }

    /// Something has changed for whoever is next.
    pub(super) fn wake(&self) {
        if let Some((_, turn)) = self.lock().queue.head(Instant::now()) {
            turn.notify.notify_one();
        }
    }

    /// It is in vain for everybody who waits now.
    pub(super) fn fail(&self, failure: &LoadFailure) {
        self.lock().queue.values().for_each(|turn| turn.tell(failure.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    fn tell(&self, failure: LoadFailure) {
        // Told twice, the first word counts.
        let _already_told = self.told.set(failure);
        self.notify.notify_one();
    }
}

impl Place {
    pub(super) fn is_next(&self) -> bool {
        self.desk.lock().queue.head(Instant::now()).is_some_and(|(id, _)| id == self.id)
    }

    /// Why it is in vain.
    pub(super) fn told(&self) -> Option<LoadFailure> {
        self.turn.told.get().cloned()
    }

    /// Returns when it may be its turn, or it was told something.
    pub(super) async fn notified(&self) {
        self.turn.notify.notified().await;
    }

    /// It has got what it waited for.
    pub(super) fn served(self) {
        self.leave(true);
    }

    fn leave(&self, served: bool) {
        let mut state = self.desk.lock();
        state.queue.leave(self.id, served);
        if state.queue.is_empty() {
            state.crowded_since = None;
        }
        drop(state);
        // Whoever is next may have been waiting for this one alone.
        self.desk.wake();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave(false);
    }
}
