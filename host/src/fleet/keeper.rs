//! What the fleet does without a request: models that the catalogue wants there are loaded, hot ones get
//! another copy, idle ones go, and a node's memory is put in order.

mod defrag;

use super::load::Why;
use super::place::{candidates, find};
use super::standing::{Standing, copies, idle};
use super::{Loads, Node, NodeState, NodeView, What, evict};
use crate::config::{Config, Model};
use neuron_protocol::{ModelInfo, UnloadMode};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(500);
/// Requests wait for so long without a pause before one more copy is loaded.
const SUSTAINED: Duration = Duration::from_secs(5);
/// After which it may be looked at whether the copies are enough.
const BETWEEN_COPIES: Duration = Duration::from_secs(30);
/// A copy beyond those that are wanted goes when it was idle for so long, where the catalogue is silent.
const COPY_TTL: Duration = Duration::from_secs(300);
/// A model that is wanted and could not be loaded is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// One for the process.
pub struct Keeper {
    loads: Arc<Loads>,
    tasks: TaskTracker,
    /// Models of `preload` that were there since the last node came.
    preloaded: HashSet<String>,
    /// Which nodes are up, by since when.
    seen: HashMap<String, Instant>,
    tried: HashMap<String, Instant>,
    grown: HashMap<String, Instant>,
    quiet: HashMap<String, Instant>,
}

impl Keeper {
    pub fn new(loads: Arc<Loads>, tasks: TaskTracker) -> Self {
        Self {
            loads,
            tasks,
            preloaded: HashSet::new(),
            seen: HashMap::new(),
            tried: HashMap::new(),
            grown: HashMap::new(),
            quiet: HashMap::new(),
        }
    }

    /// Looks again and again until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let looking = async {
            loop {
                self.look();
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = looking => {}
        }
    }

    fn look(&mut self) {
        let config = self.loads.config.load_full();
        self.notice_nodes();
        for model in config.catalogue.models() {
            self.keep(model);
        }
        self.loads.record_depths();
        for desk in self.loads.crowded() {
            if let Some(model) = config.catalogue.get(desk.model())
                && desk.crowded_for().is_some_and(|time| time >= SUSTAINED)
            {
                self.grow(model);
            }
        }
        self.let_idle_ones_go(&config);
        self.defrag(&config);
    }

    /// A node that has come up may be what a model waited for that is to be there from the start.
    fn notice_nodes(&mut self) {
        let fleet = self.loads.fleet.now();
        let up = fleet.nodes.iter().filter_map(|view| Some((view.node.name.clone(), view.up_since?)));
        let up: HashMap<String, Instant> = up.collect();
        if up.iter().any(|(name, since)| self.seen.get(name) != Some(since)) {
            self.preloaded.clear();
            self.tried.clear();
        }
        self.seen = up;
    }

    /// As many copies as the catalogue wants at least.
    fn keep(&mut self, model: &Model) {
        let least = model.replicas.as_ref().map_or(0, |replicas| replicas.min);
        let preload = model.preload && !self.preloaded.contains(&model.id);
        if least == 0 && !preload {
            return;
        }
        let there = copies(&self.loads, model);
        if there > 0 {
            self.preloaded.insert(model.id.clone());
        }
        let waits = self.tried.get(&model.id).is_some_and(|at| at.elapsed() < TRY_AGAIN);
        if there >= least.max(u32::from(preload)) || waits || self.loads.job(&model.id).is_some() {
            return;
        }
        let nodes = candidates(&self.loads.fleet.now(), model, &self.loads);
        if !nodes.is_empty() {
            self.tried.insert(model.id.clone(), Instant::now());
            self.loads.start(model, nodes, Why::Kept);
        }
    }

    /// One more copy where requests wait though it is there.
    fn grow(&mut self, model: &Model) {
        let most = model.replicas.as_ref().map_or(1, |replicas| replicas.max);
        let there = copies(&self.loads, model);
        let fresh = self.grown.get(&model.id).is_some_and(|at| at.elapsed() < BETWEEN_COPIES);
        if there == 0 || there >= most || fresh || self.loads.job(&model.id).is_some() {
            return;
        }
        let nodes = candidates(&self.loads.fleet.now(), model, &self.loads);
        if !nodes.is_empty() {
            tracing::info!(model = model.id, there, "requests wait: one more copy");
            self.grown.insert(model.id.clone(), Instant::now());
            self.loads.start(model, nodes, Why::Replica);
        }
    }

    fn let_idle_ones_go(&self, config: &Config) {
        let fleet = self.loads.fleet.now();
        let mut gone: HashSet<&str> = HashSet::new();
        for view in fleet.nodes.iter().filter(|view| view.state == NodeState::Up) {
            for info in &view.models {
                let Some(model) = config.catalogue.on_node(&info.id) else { continue };
                // One copy at a time: the next look counts those that are left.
                if !gone.contains(model.id.as_str()) && self.is_past_its_time(config, view, model, info) {
                    gone.insert(&model.id);
                    self.let_go(view.node.clone(), info.id.clone(), model);
                }
            }
        }
    }

    fn is_past_its_time(&self, config: &Config, view: &NodeView, model: &Model, info: &ModelInfo) -> bool {
        let (least, there) =
            (model.replicas.as_ref().map_or(0, |replicas| replicas.min), copies(&self.loads, model));
        let spare = there > least.max(1);
        let ttl = match model.idle_ttl() {
            Some(ttl) if there > least => ttl,
            None if spare && model.replicas.is_some() => COPY_TTL,
            _ => return false,
        };
        let standing = Standing::of(&self.loads, config, view, model, info);
        matches!(standing, Standing::Free(time) if time >= ttl)
            && idle(view, info, view.node.usage(&model.id).idle()) >= ttl
    }

    fn let_go(&self, node: Arc<Node>, name: String, model: &Model) {
        let (loads, id) = (self.loads.clone(), model.id.clone());
        // Another gateway may have used it a moment ago: the node knows.
        let ttl = model.idle_ttl().unwrap_or(COPY_TTL);
        self.tasks.spawn(async move {
            // A load there may have it go anyway, and looks at the node's memory meanwhile.
            let Ok(_turn) = node.loading.try_lock() else { return };
            let Some(_closed) = node.usage(&id).close_idle(loads.desk(&id)) else { return };
            tracing::info!(node = node.name, model = id, "idle for its time: unloading");
            match evict::unload(&loads, &node, &name, UnloadMode::IfIdle, Some(ttl)).await {
                Ok(()) => {
                    loads.metrics.evictions.with_label_values(&["idle"]).inc();
                    let why = format!("no request for {} s, its idle_ttl", ttl.as_secs());
                    loads.chronicle.add(What::Unloaded, &id, &node.name, why, None);
                }
                Err(error) => tracing::debug!(node = node.name, model = id, ?error, "it stays"),
            }
            super::poll::refresh(&loads, &node).await;
        });
    }
}

/// Whether nothing runs on the node or waits for what it has.
fn is_quiet(loads: &Loads, config: &Config, view: &NodeView) -> bool {
    let reported = view.health.models.iter().any(|m| m.in_flight + m.queue_depth > 0);
    let waited_for = |info: &ModelInfo| loads.desk(config.catalogue.id_of(&info.id)).waiting() > 0;
    view.node.in_flight() == 0 && !reported && !view.models.iter().any(waited_for)
}

/// The models on a node that a load brought there and can bring back.
fn resident<'a>(config: &'a Config, view: &NodeView) -> Vec<&'a Model> {
    let loaded = |model: &&Model| find(view, model).is_some_and(|found| found.info.can_serve());
    config.catalogue.models().filter(loaded).collect()
}
