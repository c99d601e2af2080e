//! One model's state, which whoever waits for it can watch.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use neuron_kernels::quant::Target;
use neuron_protocol::{Lease, StillNeeded, UnloadMode, UnloadRequest};
use tokio::sync::watch;

use super::LoadFailure;
use crate::{
    device::{ModelKey, Stats},
    embeds::Embeds,
    engine::Estimate,
    progress::Progress,
    text::TextModel,
};

/// Whoever asks for more has this.
const LONGEST_LEASE: Duration = Duration::from_secs(60);

/// Longer than any that matters is as good as this.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Where a model is in its life.
#[derive(Debug, Clone)]
pub(crate) enum State {
    Loading,
    Ready(Arc<Ready>),
    /// Its last requests finish; new ones are refused.
    Unloading(Arc<Ready>),
    /// Its weights wait in the host's memory.
    Parked(Arc<Ready>),
    Failed(LoadFailure),
    Gone,
}

/// A loaded model: all that a request needs to know of it.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    /// As it was given at the load.
    pub(crate) id: String,
    /// Its file's name, which says the quant.
    pub(crate) file: String,
    /// What its weights were quantised to as they were loaded.
    pub(crate) in_situ: Option<Target>,
    pub(crate) key: ModelKey,
    /// Which of the devices it is on; the first leads.
    pub(crate) devices: Vec<usize>,
    pub(crate) text: Arc<TextModel>,
    /// Tokens of prompt and answer that fit.
    pub(crate) context: u64,
    /// Many requests at once, by our decoder.
    pub(crate) batched: bool,
    /// It makes vectors of texts, and no text.
    pub(crate) encodes: bool,
    pub(crate) estimate: Estimate,
    pub(crate) stats: Arc<Stats>,
    /// Tells this load of it from the next.
    pub(crate) generation: u64,
    pub(crate) since: Instant,
    /// Whose it is for a while.
    pub(crate) lease: Option<Lease>,
    /// Tokens that end an answer.
    pub(crate) end: Arc<[u32]>,
}

impl Ready {
    /// Why it is not to be unloaded on these conditions.
    pub(crate) fn still_needed(&self, request: &UnloadRequest) -> Option<StillNeeded> {
        let generation = self.generation;
        if request.generation.is_some_and(|meant| meant != generation) {
            return Some(StillNeeded::Generation { generation });
        }
        if request.mode != Some(UnloadMode::IfIdle) {
            return None;
        }
        let (running, waiting) = self.stats.load();
        if running + waiting > 0 {
            return Some(StillNeeded::Busy { in_flight: running + waiting });
        }
        let idle = self.stats.idle();
        if let Some(lease) = self.lease.as_ref().filter(|l| request.holder.as_ref() != Some(&l.holder)) {
            let left =
                Duration::from_millis(lease.ms).min(LONGEST_LEASE).saturating_sub(self.since.elapsed());
            if !left.is_zero() {
                return Some(StillNeeded::Leased { holder: lease.holder.clone(), ms_left: millis(left) });
            }
        }
        let idle_ms = millis(idle.unwrap_or_else(|| self.since.elapsed()));
        request.min_idle_ms.filter(|least| idle_ms < *least).map(|_| StillNeeded::Used { idle_ms })
    }

    /// How it makes vectors; `None`: it makes none, whatever its files say.
    pub(crate) fn embeds(&self) -> Option<&Embeds> {
        self.text.embeds.as_ref().filter(|_| self.batched || self.encodes)
    }

    /// As a length in memory.
    pub(crate) fn window(&self) -> usize {
        usize::try_from(self.context).unwrap_or(usize::MAX)
    }
}

pub(super) struct Entry {
    pub(super) id: String,
    pub(super) progress: Progress,
    /// `org/name`.
    pub(super) repo: String,
    state: watch::Sender<State>,
}

impl Entry {
    pub(super) fn new(id: String, repo: String) -> Self {
        Self { id, repo, progress: Progress::default(), state: watch::Sender::new(State::Loading) }
    }

    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(super) fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// From ready, or parked, to unloading, where the request's conditions hold; `Ok(false)`: it is not ready, so another has
    /// done it. A request that comes after finds it unloading, one that came before is counted.
    pub(super) fn start_unloading(&self, request: &UnloadRequest) -> Result<bool, StillNeeded> {
        let mut refused = None;
        let begun = self.state.send_if_modified(|state| {
            let (State::Ready(ready) | State::Parked(ready)) = state else { return false };
            refused = ready.still_needed(request);
            if refused.is_some() {
                return false;
            }
            *state = State::Unloading(Arc::clone(ready));
            true
        });
        refused.map_or(Ok(begun), Err)
    }

    /// From parked to unloading; `false`: it is not parked any more.
    pub(super) fn start_dropping(&self) -> bool {
        self.state.send_if_modified(|state| match state {
            State::Parked(ready) => {
                *state = State::Unloading(Arc::clone(ready));
                true
            }
            _ => false,
        })
    }

    /// From parked to loading; `false`: it is not parked any more.
    pub(super) fn start_waking(&self) -> bool {
        self.state.send_if_modified(|state| {
            let parked = matches!(state, State::Parked(_));
            if parked {
                *state = State::Loading;
            }
            parked
        })
    }

    /// The state once it is neither loading nor unloading.
    pub(super) async fn settled(&self) -> State {
        let mut watch = self.state.subscribe();
        let settled = watch.wait_for(|state| !matches!(state, State::Loading | State::Unloading(_))).await;
        // The sender is in `self`, so it cannot be gone.
        settled.map_or(State::Gone, |state| state.clone())
    }
}
