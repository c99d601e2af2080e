//! What the gateway itself counts of one model on one node, and the seats that requests take there.

use super::LoadFailure;
use super::desk::Desk;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A node that failed to load the model is not asked again for so long, and twice as long each further time.
const FIRST_HOLD: Duration = Duration::from_secs(5);
const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// What the gateway knows of one model on one node better than any poll.
pub struct ModelUse {
    state: Mutex<State>,
    /// Fires when the last seat is given back.
    idle: Notify,
    node: Arc<Signals>,
}

/// What the counts of one node's models have in common.
#[derive(Default)]
pub(super) struct Signals {
    /// Fires when the last request at one of its models has ended.
    pub(super) idle: Notify,
    version: AtomicU32,
}

impl Signals {
    /// Something that decisions look at is another than before.
    pub(super) fn changed(&self) {
        // Release: whoever sees the new number sees what has changed.
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(super) fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }
}

struct State {
    in_flight: u32,
    uses: u64,
    /// The last request ended, or the model was first seen.
    last_used: Instant,
    /// This gateway saw it become resident.
    resident_since: Option<Instant>,
    load_ms: Option<u32>,
    /// MiB over all devices, as the node said when it was last resident.
    measured_mb: Option<u64>,
    /// No new seats: it is to make room.
    closed: bool,
    failures: u32,
    /// After a failed load.
    held: Option<(Instant, LoadFailure)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            in_flight: 0,
            uses: 0,
            last_used: Instant::now(),
            resident_since: None,
            load_ms: None,
            measured_mb: None,
            closed: false,
            failures: 0,
            held: None,
        }
    }
}

/// A request's place at a model on a node; given back when it is dropped, whatever happened.
pub struct Seat {
    /// `None`: it takes no place.
    usage: Option<Arc<ModelUse>>,
    /// Who waits for the model, to be told.
    desk: Option<Arc<Desk>>,
}

/// While it lives, no request gets a seat at the model on that node.
pub(super) struct Closed {
    usage: Arc<ModelUse>,
    desk: Arc<Desk>,
}

impl ModelUse {
    pub(super) fn new(node: Arc<Signals>) -> Self {
        Self { state: Mutex::default(), idle: Notify::new(), node }
    }

    /// A seat where there is one. `capacity`: how many run at once; `None` where the node does not say.
    pub(super) fn try_seat(self: &Arc<Self>, capacity: Option<u32>, desk: &Arc<Desk>) -> Option<Seat> {
        let mut state = self.lock();
        if state.closed || capacity.is_some_and(|most| state.in_flight >= most) {
            return None;
        }
        state.in_flight += 1;
        state.uses += 1;
        drop(state);
        Some(Seat { usage: Some(self.clone()), desk: Some(desk.clone()) })
    }

    /// Requests of this gateway's that are there now.
    pub fn in_flight(&self) -> u32 {
        self.lock().in_flight
    }

    pub fn uses(&self) -> u64 {
        self.lock().uses
    }

    /// Since the last request ended, or since the model was first seen.
    pub fn idle(&self) -> Duration {
        self.lock().last_used.elapsed()
    }

    /// Milliseconds that the last load took; `None` before the first.
    pub fn load_ms(&self) -> Option<u32> {
        self.lock().load_ms
    }

    /// Since this gateway saw it become resident; `None`: it was there before.
    pub(super) fn resident_for(&self) -> Option<Duration> {
        self.lock().resident_since.map(|at| at.elapsed())
    }

    /// MiB that it took here the last time.
    pub(super) fn measured_mb(&self) -> Option<u64> {
        self.lock().measured_mb
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Why a load is not tried again yet: how the last one failed, a moment ago.
    pub(super) fn held_by(&self) -> Option<LoadFailure> {
        let state = self.lock();
        let (until, failure) = state.held.as_ref()?;
        (*until > Instant::now()).then(|| failure.clone())
    }

    pub(super) fn loaded_in(&self, took: Duration) {
        let mut state = self.lock();
        state.load_ms = Some(took.as_millis().clamp(1, u128::from(u32::MAX - 1)) as u32);
        (state.last_used, state.resident_since) = (Instant::now(), Some(Instant::now()));
        (state.failures, state.held) = (0, None);
        drop(state);
        self.node.changed();
    }

    pub(super) fn load_failed(&self, failure: &LoadFailure) {
        let mut state = self.lock();
        let hold = FIRST_HOLD.saturating_mul(1 << state.failures.min(8)).min(LONGEST_HOLD);
        state.failures += 1;
        state.held = Some((Instant::now() + hold, failure.clone()));
    }

    pub(super) fn unloaded(&self) {
        self.lock().resident_since = None;
    }

    /// First seen resident on the node.
    pub(super) fn appeared(&self) {
        self.lock().last_used = Instant::now();
    }

    pub(super) fn measured(&self, mb: u64) {
        // Every poll says it again.
        if self.lock().measured_mb.replace(mb) != Some(mb) {
            self.node.changed();
        }
    }

    /// `None` where somebody else has closed it. `desk`: who waits for the model.
    pub(super) fn close(self: &Arc<Self>, desk: Arc<Desk>) -> Option<Closed> {
        let was_closed = std::mem::replace(&mut self.lock().closed, true);
        self.node.changed();
        (!was_closed).then(|| Closed { usage: self.clone(), desk })
    }

    /// Closes it where nobody has a seat.
    pub(super) fn close_idle(self: &Arc<Self>, desk: Arc<Desk>) -> Option<Closed> {
        let mut state = self.lock();
        if state.closed || state.in_flight > 0 {
            return None;
        }
        state.closed = true;
        drop(state);
        self.node.changed();
        Some(Closed { usage: self.clone(), desk })
    }

    /// Returns once nobody has a seat.
    pub(super) async fn until_idle(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.in_flight() == 0 {
                return;
            }
            idle.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// For what takes no place in the engine.
    pub fn aside() -> Self {
        Self { usage: None, desk: None }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(usage) = &self.usage else { return };
        let mut state = usage.lock();
        state.in_flight -= 1;
        state.last_used = Instant::now();
        let is_idle = state.in_flight == 0;
        drop(state);
        if is_idle {
            usage.idle.notify_waiters();
            usage.node.idle.notify_waiters();
        }
        if let Some(desk) = &self.desk {
            desk.wake();
        }
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.usage.lock().closed = false;
        self.usage.node.changed();
        self.desk.wake();
    }
}
