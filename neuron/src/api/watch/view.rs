//! What one watcher knows, and how the present differs from it.

use std::collections::BTreeMap;

use neuron_protocol::{
    DeviceHealth, LoadPhase, LoadProgress, ModelInfo, ModelLoad, ModelStatus, Prefix, PrefixChanges,
    Snapshot, WatchEvent, prefix::PrefixHash,
};
use tokio::time::{Duration, Instant};

use crate::{
    api::{App, error, meta},
    registry::State,
};

/// A host's free memory never stands still.
const DEVICES_EVERY: Duration = Duration::from_secs(1);

/// What was last said.
pub(super) struct View {
    models: Vec<ModelInfo>,
    loads: Vec<ModelLoad>,
    devices: Vec<DeviceHealth>,
    devices_at: Instant,
    /// Loads under way.
    progress: Vec<LoadProgress>,
    /// The number of the last failed load.
    failures: u64,
    /// By model.
    prefixes: BTreeMap<String, Held>,
}

/// Tokens by hash, and the number that says whether they are still these.
#[derive(Default)]
struct Held {
    version: u64,
    tokens: BTreeMap<u64, u64>,
}

impl View {
    pub(super) fn of(app: &App) -> Self {
        let health = meta::health_of(app);
        let mut view = Self {
            models: meta::models_of(app),
            loads: busy(health.models),
            devices: health.devices,
            devices_at: Instant::now(),
            progress: app.registry.loading(),
            failures: app.registry.failures_after(0).last().map_or(0, |(number, ..)| *number),
            prefixes: BTreeMap::new(),
        };
        view.update_prefixes(app);
        view
    }

    /// All of it, with what is not watched for changes.
    pub(super) fn snapshot(&self, app: &App) -> Snapshot {
        let changes = |(model, held): (&String, &Held)| {
            let added = held.tokens.iter().map(|(hash, tokens)| prefix(*hash, *tokens)).collect();
            PrefixChanges { model: model.clone(), added, removed: Vec::new() }
        };
        let mut health = meta::health_of(app);
        health.models.clone_from(&self.loads);
        health.devices.clone_from(&self.devices);
        Snapshot {
            health,
            models: self.models.clone(),
            prefixes: self.prefixes.iter().map(changes).collect(),
            loads: self.progress.clone(),
        }
    }

    /// What has changed since.
    pub(super) fn update(&mut self, app: &App) -> Vec<WatchEvent> {
        let mut events = Vec::new();
        let models = meta::models_of(app);
        for model in models.iter().filter(|model| !self.models.contains(model)) {
            events.push(WatchEvent::Model(Box::new(model.clone())));
        }
        let was = |model: &ModelInfo| self.models.iter().any(|old| old.generation == model.generation);
        let arrived = models.iter().filter(|model| model.generation.is_some() && !was(model));
        let arrived = arrived.map(|model| model.id.clone()).collect();
        for gone in self.models.iter().filter(|old| !models.iter().any(|model| model.id == old.id)) {
            let status = ModelStatus::Unloaded;
            let gone =
                ModelInfo { id: gone.id.clone(), harness: gone.harness.clone(), status, ..<_>::default() };
            events.push(WatchEvent::Model(Box::new(gone)));
        }
        self.models = models;
        let health = meta::health_of(app);
        let loads = busy(health.models);
        for load in loads.iter().filter(|load| !self.loads.contains(load)) {
            events.push(WatchEvent::Load(Box::new(load.clone())));
        }
        self.loads = loads;
        events.extend(self.update_progress(app, arrived).into_iter().map(WatchEvent::Progress));
        if self.devices_at.elapsed() >= DEVICES_EVERY {
            self.devices_at = Instant::now();
            for device in health.devices.iter().filter(|device| !self.devices.contains(device)) {
                events.push(WatchEvent::Device(device.clone()));
            }
            self.devices = health.devices;
        }
        events.extend(self.update_prefixes(app).into_iter().map(WatchEvent::Prefixes));
        events
    }

    /// A load may begin and end between two looks; how it ended is said all the same.
    fn update_progress(&mut self, app: &App, arrived: Vec<String>) -> Vec<LoadProgress> {
        let now = app.registry.loading();
        let mut changes: Vec<_> = now.iter().filter(|load| !self.progress.contains(load)).cloned().collect();
        let ended = |model, phase, failure| LoadProgress { model, phase, failure, ..LoadProgress::default() };
        changes.extend(arrived.into_iter().map(|model| ended(model, LoadPhase::Loaded, None)));
        for (number, model, failure) in app.registry.failures_after(self.failures) {
            self.failures = number;
            changes.push(ended(model, LoadPhase::Failed, Some(error::load_failed(failure))));
        }
        self.progress = now;
        changes
    }

    fn update_prefixes(&mut self, app: &App) -> Vec<PrefixChanges> {
        let mut changes = Vec::new();
        let mut left = std::mem::take(&mut self.prefixes);
        for (id, state) in app.registry.list() {
            let State::Ready(ready) = state else { continue };
            let mut held = left.remove(&id).unwrap_or_default();
            // Before the entries: what comes between the two is seen again at the next look.
            let version = ready.stats.prefixes.version();
            if version != held.version {
                let now = ready.stats.prefixes.held();
                let new = now.iter().filter(|(hash, tokens)| held.tokens.get(hash) != Some(tokens));
                let added = new.map(|(hash, tokens)| prefix(*hash, *tokens)).collect();
                let gone = held.tokens.keys().filter(|hash| !now.contains_key(hash));
                let removed = gone.map(|hash| PrefixHash(*hash)).collect();
                changes.push(PrefixChanges { model: id.clone(), added, removed });
                held = Held { version, tokens: now };
            }
            self.prefixes.insert(id, held);
        }
        let unloaded = left.into_iter().filter(|(_, held)| !held.tokens.is_empty());
        changes.extend(unloaded.map(|(model, held)| {
            let removed = held.tokens.into_keys().map(PrefixHash).collect();
            PrefixChanges { model, added: Vec::new(), removed }
        }));
        changes
    }
}

/// Without what changes though nothing happens.
fn busy(mut loads: Vec<ModelLoad>) -> Vec<ModelLoad> {
    loads.iter_mut().for_each(|load| load.idle_ms = None);
    loads
}

fn prefix(hash: u64, tokens: u64) -> Prefix {
    Prefix { hash: PrefixHash(hash), tokens }
}
