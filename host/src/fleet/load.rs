//! Loading a model: one job however many wait, which outlives any one of them.

mod gone;
mod limit;
mod on_node;
pub(super) mod refused;

use super::desk::Desk;
use super::evict::NotNow;
use super::hosts::Hosts;
use super::place::candidates;
use super::{Chronicle, FleetState, Node};
use crate::config::{Config, Model};
use crate::decide::Decider;
use crate::metrics::Metrics;
use arc_swap::ArcSwap;
use futures_util::future::select_all;
use gone::{Away, Gone};
use http::StatusCode;
use neuron_protocol::LoadProgress;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// A job that nothing may make room for now looks again after this, or when a model falls idle.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// And never sooner than after this.
const PAUSE: Duration = Duration::from_millis(100);

/// Why a model is not there. Every waiter gets the same.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct LoadFailure {
    pub status: StatusCode,
    /// The node's `kind`, or one of the gateway's.
    pub code: String,
    pub message: String,
    /// Whether another node may do better.
    pub elsewhere: bool,
}

/// What a load is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// Requests wait for it.
    Demand,
    /// The catalogue wants it there: `preload`, `replicas.min`.
    Kept,
    /// Requests wait though it is there: one more copy.
    Replica,
    Operator,
}

impl Why {
    /// For a person.
    fn name(self) -> &'static str {
        match self {
            Self::Demand => "requests waited for it",
            Self::Kept => "the catalogue wants it there",
            Self::Replica => "one more copy, for requests kept waiting",
            Self::Operator => "an operator asked for it",
        }
    }
}

/// What has come of a job so far.
#[derive(Default)]
struct Tried {
    /// Nodes that are not asked again.
    never: Vec<Arc<Node>>,
    gone: Gone,
    /// What speaks against it, in the words of the last node that did.
    last: Option<LoadFailure>,
}

/// A load under way.
pub struct Job {
    pub model: String,
    pub why: Why,
    pub started: Instant,
    desk: Arc<Desk>,
    now: Mutex<Now>,
    done: watch::Receiver<Option<Result<(), LoadFailure>>>,
}

/// Where a job is.
#[derive(Default)]
struct Now {
    node: Option<Arc<Node>>,
    doing: &'static str,
}

/// A load under way, for people.
#[derive(Debug, Clone, Serialize)]
pub struct JobStatus {
    pub model: String,
    /// Empty while it waits for a node.
    pub node: String,
    pub why: Why,
    pub doing: &'static str,
    pub seconds: f64,
    pub waiters: usize,
    /// As the node says.
    pub progress: Option<LoadProgress>,
}

/// All loads under way.
pub struct Loads {
    pub(super) fleet: Arc<FleetState>,
    pub(super) hosts: Arc<dyn Hosts>,
    pub(super) decider: Arc<Decider>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) config: Arc<ArcSwap<Config>>,
    /// Names this gateway to nodes, for leases.
    pub(super) holder: String,
    /// What was loaded and what went, lately.
    pub chronicle: Chronicle,
    tasks: TaskTracker,
    desks: Mutex<HashMap<String, Arc<Desk>>>,
    jobs: Mutex<HashMap<String, Arc<Job>>>,
}

impl Loads {
    pub fn new(
        fleet: Arc<FleetState>,
        hosts: Arc<dyn Hosts>,
        decider: Arc<Decider>,
        metrics: Arc<Metrics>,
        config: Arc<ArcSwap<Config>>,
        tasks: TaskTracker,
    ) -> Self {
        let holder = format!("cortex-{:016x}", crate::request::seed());
        let (desks, jobs) = (Mutex::default(), Mutex::default());
        let chronicle = Chronicle::default();
        Self { fleet, hosts, decider, metrics, config, holder, chronicle, tasks, desks, jobs }
    }

    /// Where requests for a model wait, by its id in the catalogue.
    pub fn desk(&self, model: &str) -> Arc<Desk> {
        let mut desks = self.desks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(desk) = desks.get(model) {
            return desk.clone();
        }
        desks.entry(model.to_owned()).or_insert_with(|| Desk::new(model)).clone()
    }

    /// Every queue that has somebody waiting.
    pub fn crowded(&self) -> Vec<Arc<Desk>> {
        let desks = self.desks.lock().unwrap_or_else(PoisonError::into_inner);
        desks.values().filter(|desk| desk.waiting() > 0).cloned().collect()
    }

    /// How many wait where, for the metrics. A name that is not the catalogue's is one that a node has.
    pub(super) fn record_depths(&self) {
        let desks = self.desks.lock().unwrap_or_else(PoisonError::into_inner);
        for (model, desk) in desks.iter() {
            let waiting = i64::try_from(desk.waiting()).unwrap_or(i64::MAX);
            self.metrics.queue_depth.with_label_values(&[model.as_str()]).set(waiting);
        }
    }

    /// Whether the model is being loaded on that node.
    pub fn running(&self, node: &Node, model: &str) -> bool {
        self.job(model).is_some_and(|job| job.is_on(node))
    }

    /// Nodes that could have the model and have it not, the readiest first.
    pub fn candidates(&self, model: &Model) -> Vec<Arc<Node>> {
        candidates(&self.fleet.now(), model, self)
    }

    /// Unloads a model from a node as an operator wants it. `drain`: also where it is in use, once that has
    /// ended; otherwise an error says that it is.
    pub async fn unload(&self, node: &Arc<Node>, model: &Model, drain: bool) -> Result<(), LoadFailure> {
        super::evict::by_operator(self, node, model, drain).await
    }

    /// Looks at a node now.
    pub async fn refresh(&self, node: &Arc<Node>) {
        super::poll::refresh(self, node).await;
    }

    pub(super) fn job(&self, model: &str) -> Option<Arc<Job>> {
        let jobs = self.lock();
        // Hardly ever is there a job at all.
        if jobs.is_empty() { None } else { jobs.get(model).cloned() }
    }

    pub fn status(&self) -> Vec<JobStatus> {
        let (fleet, config) = (self.fleet.now(), self.config.load_full());
        let mut all: Vec<JobStatus> = self.lock().values().map(|job| job.status()).collect();
        for status in &mut all {
            let Some(view) = fleet.node(&status.node) else { continue };
            let is_it = |load: &&LoadProgress| config.catalogue.id_of(&load.model) == status.model;
            status.progress = view.loads.iter().find(is_it).cloned();
        }
        all.sort_by(|a, b| a.model.cmp(&b.model));
        all
    }

    /// The job that loads the model on one of the nodes, the first that can; the one under way where there is
    /// one. Dropping it changes nothing.
    pub fn start(self: &Arc<Self>, model: &Model, nodes: Vec<Arc<Node>>, why: Why) -> Arc<Job> {
        let desk = self.desk(&model.id);
        let mut jobs = self.lock();
        if let Some(job) = jobs.get(&model.id) {
            return job.clone();
        }
        let (sender, done) = watch::channel(None);
        let (started, now) = (Instant::now(), Mutex::default());
        let job = Arc::new(Job { model: model.id.clone(), why, started, desk, now, done });
        jobs.insert(model.id.clone(), job.clone());
        drop(jobs);
        let (loads, running, model) = (self.clone(), job.clone(), model.clone());
        self.tasks.spawn(async move {
            let outcome = loads.run(&running, &model, nodes).await;
            loads.lock().remove(&model.id);
            // Others than demand tried less than those would have tried who wait: they begin anew.
            if let Err(NotNow::Never(failure)) = &outcome
                && why == Why::Demand
            {
                running.desk.fail(failure);
            }
            running.desk.wake();
            sender.send_replace(Some(outcome.map_err(NotNow::failure)));
        });
        job
    }

    /// Tries one node after the other, for as long as nothing speaks against it but that others are in use, or that a node
    /// may be restarting.
    async fn run(&self, job: &Job, model: &Model, nodes: Vec<Arc<Node>>) -> Result<(), NotNow> {
        let (mut nodes, mut tried) = (nodes, Tried::default());
        loop {
            let mut later = None;
            for node in &nodes {
                match self.attempt(job, model, node, nodes.len() > 1, &mut tried).await {
                    Ok(()) => return Ok(()),
                    Err(NotNow::Later(failure)) => later = Some(failure),
                    Err(NotNow::Never(failure)) if !failure.elsewhere => return Err(NotNow::Never(failure)),
                    Err(NotNow::Never(failure)) => tried.last = Some(failure),
                    Err(NotNow::Gone { failure, .. }) => {
                        tried.last.get_or_insert(failure);
                    }
                }
            }
            let none = || LoadFailure::no_node(&model.id);
            let Some(later) = later else { return Err(NotNow::Never(tried.last.unwrap_or_else(none))) };
            if job.why != Why::Demand || job.desk.waiting() == 0 {
                return Err(NotNow::Later(later));
            }
            self.pause(job, &nodes, &tried).await;
            let (fleet, patience) = (self.fleet.now(), self.config.load().node_return);
            let mut now = candidates(&fleet, model, self);
            for node in tried.gone.returning(&fleet, patience) {
                if !now.iter().any(|other| Arc::ptr_eq(other, node)) {
                    now.push(node.clone());
                }
            }
            // Where there is none any more, the last ones say why.
            nodes = if now.is_empty() { nodes } else { now };
            nodes.retain(|node| !tried.never.iter().any(|said| Arc::ptr_eq(said, node)));
        }
    }

    /// One node in its turn. `Gone`: it is waited for no longer.
    async fn attempt(
        &self,
        job: &Job,
        model: &Model,
        node: &Arc<Node>,
        choosy: bool,
        tried: &mut Tried,
    ) -> Result<(), NotNow> {
        let patience = self.config.load().node_return;
        match tried.gone.away(&self.fleet.now(), node, patience) {
            Some(Away::Returning(failure)) => return Err(NotNow::Later(failure)),
            Some(Away::Over(failure)) => {
                tried.never.push(node.clone());
                return Err(NotNow::Gone { failure, begun: false });
            }
            None => {}
        }
        let usage = node.usage(&model.id);
        if let Some(failure) = usage.held_by().filter(|_| job.why != Why::Operator) {
            return Err(NotNow::Never(failure));
        }
        job.is_at(Some(node), "waiting for its turn");
        let outcome = self.load_on(job, node, model, choosy).await;
        if let Err(NotNow::Gone { failure, begun }) = &outcome {
            // Its polls say whether it is down.
            node.poke();
            let is_waited_for = job.why == Why::Demand && !patience.is_zero();
            if is_waited_for && tried.gone.note(node, failure, *begun) {
                return Err(NotNow::Later(failure.clone()));
            }
            if *begun {
                usage.load_failed(failure);
            }
        }
        if let Err(NotNow::Gone { .. } | NotNow::Never(_)) = &outcome {
            tried.never.push(node.clone());
        }
        outcome
    }

    /// Until it is worth another look.
    async fn pause(&self, job: &Job, nodes: &[Arc<Node>], tried: &Tried) {
        let (fleet, patience) = (self.fleet.now(), self.config.load().node_return);
        let is_away = nodes.iter().all(|node| tried.gone.away(&fleet, node, patience).is_some());
        job.is_at(None, if is_away { "waiting for a node to return" } else { "waiting for room" });
        // Short requests fall idle all the time.
        tokio::time::sleep(PAUSE).await;
        let idle = nodes.iter().map(|node| Box::pin(node.signals.idle.notified()));
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            _ = select_all(idle) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    /// Returns once it has ended.
    pub async fn outcome(&self) -> Result<(), LoadFailure> {
        let mut done = self.done.clone();
        let outcome = done.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        // Without an outcome it ended with the gateway.
        outcome.ok().flatten().unwrap_or_else(|| Err(LoadFailure::shutting_down()))
    }

    pub fn is_on(&self, node: &Node) -> bool {
        self.lock().node.as_ref().is_some_and(|at| std::ptr::eq(Arc::as_ptr(at), node))
    }

    /// Those who waited for it have left.
    pub(super) fn is_for_nobody(&self) -> bool {
        self.why == Why::Demand && self.desk.waiting() == 0
    }

    pub(super) fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    pub(super) fn is_at(&self, node: Option<&Arc<Node>>, doing: &'static str) {
        *self.lock() = Now { node: node.cloned(), doing };
    }

    fn status(&self) -> JobStatus {
        let now = self.lock();
        JobStatus {
            model: self.model.clone(),
            node: now.node.as_ref().map(|node| node.name.clone()).unwrap_or_default(),
            why: self.why,
            doing: now.doing,
            seconds: self.started.elapsed().as_secs_f64(),
            waiters: self.desk.waiting(),
            progress: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoadFailure {
    /// 503: another try may succeed.
    pub(super) fn unavailable(code: &str, message: String) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: code.to_owned(), message, elsewhere: true }
    }

    fn no_node(model: &str) -> Self {
        Self::unavailable("no_node", format!("no neuron that is up can serve {model}"))
    }

    fn shutting_down() -> Self {
        let failure = Self::unavailable("shutting_down", "the gateway is shutting down".to_owned());
        Self { elsewhere: false, ..failure }
    }

    /// 429: it waited, and had to go for somebody with fewer requests.
    pub(super) fn crowded_out(model: &str) -> Self {
        let message = format!("too many requests wait for {model}, most of them of this key");
        let failure = Self::unavailable("queue_full", message);
        Self { status: StatusCode::TOO_MANY_REQUESTS, ..failure }
    }
}
