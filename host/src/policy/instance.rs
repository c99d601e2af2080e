//! One instance of a component, and what can come of a call into it.

use super::bindings::types::PolicyError;
use super::shared::KvRead;
use super::{gate::Setup, state::HostState};
use std::time::Duration;
use wasmtime::Store;

/// The policy broke its contract. Counted as a strike; the instance is never used again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it trapped: {0}")]
    Trap(String),
    #[error("it ran longer than its {0:?}")]
    Deadline(Duration),
    #[error("it asked for more memory than its {0} MiB")]
    Memory(usize),
    #[error("its answer is invalid: {0}")]
    Invalid(String),
}

/// The policy's own answer that it will not: no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Declined {
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The client's mistake; its text is for the client.
    #[error("{0}")]
    InvalidRequest(String),
    #[error("internal: {0}")]
    Internal(String),
}

/// Why a call gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error(transparent)]
    Declined(#[from] Declined),
    /// The host's own: no room for another instance.
    #[error("no room for another policy instance: {0}")]
    Host(String),
}

impl From<PolicyError> for Declined {
    fn from(error: PolicyError) -> Self {
        match error {
            PolicyError::Unsupported(text) => Self::Unsupported(text),
            PolicyError::InvalidRequest(text) => Self::InvalidRequest(text),
            PolicyError::Internal(text) => Self::Internal(text),
        }
    }
}

/// A component instance with its store.
pub(super) struct Instance<B> {
    store: Store<HostState>,
    bindings: B,
}

/// A store with every limit set, for one instance.
pub(super) fn store(setup: &Setup, memory: usize) -> Store<HostState> {
    let state = HostState::new(setup.shared.clone(), setup.footprint.clone(), memory);
    let mut store = Store::new(&setup.engine.engine, state);
    store.limiter(|state| state);
    store.epoch_deadline_callback(|mut context| Ok(context.data_mut().tick()));
    store
}

impl<B> Instance<B> {
    /// `instantiate` runs the guest's start code, under [`super::limits::SETUP`].
    pub(super) fn new(
        mut store: Store<HostState>,
        instantiate: impl FnOnce(&mut Store<HostState>) -> wasmtime::Result<B>,
    ) -> Result<Self, Problem> {
        arm(&mut store, super::limits::SETUP);
        match instantiate(&mut store) {
            Ok(bindings) => Ok(Self { store, bindings }),
            Err(error) if error.is::<wasmtime::PoolConcurrencyLimitError>() => {
                Err(Problem::Host(format!("{error:#}")))
            }
            Err(error) => Err(fault(&store, &error, super::limits::SETUP).into()),
        }
    }

    /// Calls into the guest. After an error the instance must be dropped: its memory may be torn.
    pub(super) fn call<T>(
        &mut self,
        limit: Duration,
        call: impl FnOnce(&B, &mut Store<HostState>) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        arm(&mut self.store, limit);
        call(&self.bindings, &mut self.store).map_err(|error| fault(&self.store, &error, limit))
    }

    /// Bytes of its linear memory.
    pub(super) fn memory(&self) -> usize {
        self.store.data().memory
    }

    /// From now on, what the guest reads from its store is kept for [`Self::take_reads`].
    pub(super) fn watch_reads(&mut self) {
        self.store.data_mut().reads = Some(Vec::new());
    }

    pub(super) fn take_reads(&mut self) -> Vec<KvRead> {
        self.store.data_mut().reads.take().unwrap_or_default()
    }
}

fn arm(store: &mut Store<HostState>, limit: Duration) {
    store.data_mut().arm(limit);
    store.set_epoch_deadline(1);
}

fn fault(store: &Store<HostState>, error: &wasmtime::Error, limit: Duration) -> Fault {
    if store.data().overran {
        Fault::Deadline(limit)
    } else if store.data().memory_refused {
        Fault::Memory(store.data().memory_limit() >> 20)
    } else {
        Fault::Trap(format!("{:#}", error.root_cause()))
    }
}
