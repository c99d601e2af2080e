//! One model's state, which whoever waits for it can watch.

use std::sync::Arc;

use tokio::sync::watch;

use super::LoadFailure;
use crate::{
    device::{ModelKey, Stats},
    engine::Estimate,
    text::TextModel,
};

/// Where a model is in its life.
#[derive(Debug, Clone)]
pub(crate) enum State {
    Loading,
    Ready(Arc<Ready>),
    /// Its last requests finish; new ones are refused.
    Unloading(Arc<Ready>),
    Failed(LoadFailure),
    Gone,
}

/// A loaded model: all that a request needs to know of it.
#[derive(Debug)]
pub(crate) struct Ready {
    /// As it was given at the load.
    pub(crate) id: String,
    /// Its file's name, which says the quant.
    pub(crate) file: String,
    pub(crate) key: ModelKey,
    pub(crate) text: Arc<TextModel>,
    /// Tokens of prompt and answer that fit.
    pub(crate) context: u64,
    /// Many requests at once, by our decoder.
    pub(crate) batched: bool,
    pub(crate) estimate: Estimate,
    pub(crate) stats: Arc<Stats>,
    /// Tokens that end an answer.
    pub(crate) end: Arc<[u32]>,
}

impl Ready {
    /// As a length in memory.
    pub(crate) fn window(&self) -> usize {
        usize::try_from(self.context).unwrap_or(usize::MAX)
    }
}

pub(super) struct Entry {
    pub(super) id: String,
    /// `org/name`.
    pub(super) repo: String,
    state: watch::Sender<State>,
}

impl Entry {
    pub(super) fn new(id: String, repo: String) -> Self {
        Self { id, repo, state: watch::Sender::new(State::Loading) }
    }

    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(super) fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// From ready to unloading; `false`: it is not ready, so another has done it.
    pub(super) fn start_unloading(&self) -> bool {
        self.state.send_if_modified(|state| {
            let State::Ready(ready) = state else { return false };
            *state = State::Unloading(Arc::clone(ready));
            true
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
