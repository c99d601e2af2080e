//! The models that the daemon has: found by name, loaded once however many ask, unloaded when idle.

mod activation;
mod devices;
mod entry;
mod lifecycle;
mod memory;
mod parking;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use neuron_protocol::{Activation, LoadError, LoadProgress, StillNeeded, model_id::ModelId};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

pub(crate) use entry::{Ready, State, millis};

use crate::{config::Config, device::DeviceHandle, gpus::Gpus, preflight, sources, text::TextModel};
use entry::Entry;

/// Text sides of models that are not loaded, kept for counting tokens; the oldest goes first.
const MAX_TEXTS: usize = 4;
/// Failed loads that are remembered.
const MAX_FAILURES: usize = 32;

/// All models of the daemon.
pub(crate) struct Registry {
    pub(crate) config: Arc<Config>,
    pub(crate) devices: Vec<DeviceHandle>,
    pub(crate) gpus: Gpus,
    /// By canonical id, so that two spellings of one model are one entry.
    entries: Mutex<BTreeMap<String, Arc<Entry>>>,
    /// One load at a time: two that fit alone may not fit together.
    load_turn: tokio::sync::Mutex<()>,
    texts: Mutex<Vec<(String, Arc<TextModel>)>>,
    activation: Mutex<Activation>,
    /// How loads failed that nobody may have waited for, numbered, the newest last.
    failures: Mutex<Vec<(u64, String, LoadFailure)>>,
    /// Loads that ended well, to number them.
    generations: AtomicU64,
    tasks: TaskTracker,
    /// Fires when a model's state has changed.
    changed: watch::Sender<()>,
    /// The daemon ends.
    stopped: watch::Sender<bool>,
}

/// Why a model could not be loaded.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LoadFailure {
    /// Found out before any memory was touched.
    #[error("{}", .0.message())]
    Preflight(Box<LoadError>),
    /// The request asks for what this daemon has not.
    #[error("{0}")]
    Request(String),
    /// While reading the weights.
    #[error("{0}")]
    Engine(String),
    /// The device that it would go to is not up.
    #[error("{0}")]
    Device(String),
}

impl LoadFailure {
    /// Seconds after which the same load may succeed by itself.
    pub(crate) fn passes_in(&self) -> Option<u64> {
        match self {
            Self::Preflight(error) => error.passes_in(),
            Self::Device(_) => Some(5),
            Self::Request(_) | Self::Engine(_) => None,
        }
    }
}

/// Why a model is still there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnloadFailure {
    /// A condition of the request does not hold.
    #[error("it is still needed")]
    StillNeeded(StillNeeded),
    #[error(transparent)]
    Failed(#[from] LoadFailure),
}

impl From<StillNeeded> for UnloadFailure {
    fn from(cause: StillNeeded) -> Self {
        Self::StillNeeded(cause)
    }
}

/// A model that requests cannot use now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotReady {
    /// Nearest ids among those loaded.
    Unknown(Vec<String>),
    /// It will be there.
    Loading,
    /// The engine broke down in it; in its own words.
    Broken(String),
}

impl Registry {
    pub(crate) fn new(config: Arc<Config>, devices: Vec<DeviceHandle>, gpus: Gpus) -> Arc<Self> {
        Arc::new(Self {
            config,
            devices,
            gpus,
            entries: Mutex::default(),
            load_turn: tokio::sync::Mutex::default(),
            texts: Mutex::default(),
            activation: Mutex::default(),
            failures: Mutex::default(),
            generations: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            changed: watch::Sender::new(()),
            stopped: watch::Sender::new(false),
        })
    }

    /// Fires when a model's state has changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn set(&self, entry: &Entry, state: State) {
        entry.set(state);
        self.changed.send_replace(());
    }

    /// The model that a request names, if requests can use it.
    pub(crate) fn ready(&self, name: &str) -> Result<Arc<Ready>, NotReady> {
        let Some((_, entry)) = self.find(name) else { return Err(NotReady::Unknown(self.nearest(name))) };
        match entry.state() {
            State::Ready(ready) => match ready.stats.fault() {
                None => Ok(ready),
                Some(fault) => Err(NotReady::Broken(fault.to_owned())),
            },
            State::Loading => Err(NotReady::Loading),
            State::Unloading(_) | State::Parked(_) | State::Failed(_) | State::Gone => {
                Err(NotReady::Unknown(self.nearest(name)))
            }
        }
    }

    /// Every entry with its state, by id.
    pub(crate) fn list(&self) -> Vec<(String, State)> {
        self.entries().values().map(|entry| (entry.id.clone(), entry.state())).collect()
    }

    /// How far the loads are that are under way, by id.
    pub(crate) fn loading(&self) -> Vec<LoadProgress> {
        let entries = self.entries();
        let loading = entries.values().filter(|entry| matches!(entry.state(), State::Loading));
        loading.map(|entry| entry.progress.of(&entry.id)).collect()
    }

    /// The last loads that failed, after the one of that number: number, model, and how.
    pub(crate) fn failures_after(&self, seen: u64) -> Vec<(u64, String, LoadFailure)> {
        lock(&self.failures).iter().filter(|(number, ..)| *number > seen).cloned().collect()
    }

    fn note_failure(&self, id: &str, failure: &LoadFailure) {
        let mut failures = lock(&self.failures);
        let number = failures.last().map_or(0, |(number, ..)| *number) + 1;
        failures.push((number, id.to_owned(), failure.clone()));
        if failures.len() > MAX_FAILURES {
            failures.remove(0);
        }
    }

    /// The text side of a model, loaded or only cached; never touches the network. `None`: neither.
    pub(crate) async fn text(&self, id: &str) -> Result<Option<Arc<TextModel>>, LoadFailure> {
        if let Some((_, entry)) = self.find(id)
            && let State::Ready(ready) | State::Unloading(ready) | State::Parked(ready) = entry.state()
        {
            return Ok(Some(Arc::clone(&ready.text)));
        }
        let resolved = match sources::resolve_cached(&self.config, id) {
            // No such model can be, so it is not there: as for every other name.
            Err(
                LoadError::InvalidModelId { .. }
                | LoadError::UnknownSource { .. }
                | LoadError::RepoNotFound { .. },
            ) => None,
            other => other?,
        };
        let Some(resolved) = resolved else { return Ok(None) };
        // A file that is replaced has another time of change, so it is read again.
        let changed = std::fs::metadata(&resolved.path).and_then(|m| m.modified()).ok();
        let name = format!("{} {changed:?}", resolved.path.display());
        if let Some(known) = lock(&self.texts).iter().find(|(known, _)| *known == name) {
            return Ok(Some(Arc::clone(&known.1)));
        }
        let owned = id.to_owned();
        let read = tokio::task::spawn_blocking(move || preflight::check_text(&owned, &resolved.path));
        let text = Arc::new(read.await.map_err(|e| LoadFailure::Engine(e.to_string()))??);
        let mut texts = lock(&self.texts);
        texts.push((name, Arc::clone(&text)));
        if texts.len() > MAX_TEXTS {
            texts.remove(0);
        }
        Ok(Some(text))
    }

    /// Waits for the tasks that are under way; none may be started after it.
    pub(crate) async fn close(&self) {
        self.stopped.send_replace(true);
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// By id in any spelling, else by `org/name` alone.
    fn find(&self, name: &str) -> Option<(String, Arc<Entry>)> {
        let canonical = self.canonical(name).ok()?;
        let entries = self.entries();
        let found = entries.get_key_value(&canonical);
        let found = found.or_else(|| entries.iter().find(|(_, entry)| entry.repo == name));
        found.map(|(canonical, entry)| (canonical.clone(), Arc::clone(entry)))
    }

    fn canonical(&self, id: &str) -> Result<String, LoadFailure> {
        let parts = ModelId::parse(id)
            .map_err(|cause| LoadError::InvalidModelId { model_id: id.to_owned(), cause })?;
        let source = parts.scheme.unwrap_or(&self.config.default_source);
        Ok(format!("{source}:{}@{}", parts.repo, parts.revision.unwrap_or("main")))
    }

    /// Ids of loaded models, the nearest to `name` first, a few at most.
    pub(crate) fn nearest(&self, name: &str) -> Vec<String> {
        let loaded = |(id, state)| matches!(state, State::Ready(_)).then_some(id);
        let mut ids: Vec<String> = self.list().into_iter().filter_map(loaded).collect();
        ids.sort_by(|a, b| strsim::jaro_winkler(b, name).total_cmp(&strsim::jaro_winkler(a, name)));
        ids.truncate(3);
        ids
    }

    /// Only if it is still this one: another load may have taken the name since.
    fn forget(&self, canonical: &str, entry: &Arc<Entry>) {
        let mut entries = self.entries();
        if entries.get(canonical).is_some_and(|current| Arc::ptr_eq(current, entry)) {
            entries.remove(canonical);
            self.changed.send_replace(());
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Entry>>> {
        lock(&self.entries)
    }
}

/// A lock that outlives a panic elsewhere: nothing here is left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<LoadError> for LoadFailure {
    fn from(error: LoadError) -> Self {
        Self::Preflight(Box::new(error))
    }
}
