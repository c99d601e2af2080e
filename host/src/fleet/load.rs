//! Loading a model on a node: one job for all who wait, which outlives any one of them.

mod refused;

use super::place::{find, per_device_mb};
use super::{FleetState, Node, evict, poll};
use crate::config::{Config, Model};
use crate::decide::Decider;
use crate::metrics::Metrics;
use crate::upstream::{Upstream, UpstreamError};
use arc_swap::ArcSwap;
use http::StatusCode;
use neuron_protocol::{LoadRequest, LoadResponse, ModelStatus};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// A load that takes longer is given up; large models over slow networks take this long.
const LOAD_LIMIT: Duration = Duration::from_secs(4 * 3600);

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

/// A load under way.
pub struct Job {
    pub node: String,
    pub model: String,
    pub started: Instant,
    waiters: AtomicU32,
    done: watch::Receiver<Option<Result<(), LoadFailure>>>,
}

/// One who waits for a job; not any more when dropped, as by a client that leaves.
struct Waiting(Arc<Job>);

impl Waiting {
    fn at(job: Arc<Job>) -> Self {
        job.waiters.fetch_add(1, Ordering::Relaxed);
        Self(job)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A load under way, for people.
#[derive(Debug, Clone, Serialize)]
pub struct JobStatus {
    pub node: String,
    pub model: String,
    pub seconds: f64,
    pub waiters: u32,
}

/// All loads under way.
pub struct Loads {
    pub(super) fleet: Arc<FleetState>,
    pub(super) upstream: Upstream,
    pub(super) decider: Arc<Decider>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) config: Arc<ArcSwap<Config>>,
    tasks: TaskTracker,
    jobs: Mutex<HashMap<(String, String), Arc<Job>>>,
}

impl Loads {
    pub fn new(
        fleet: Arc<FleetState>,
        upstream: Upstream,
        decider: Arc<Decider>,
        metrics: Arc<Metrics>,
        config: Arc<ArcSwap<Config>>,
        tasks: TaskTracker,
    ) -> Self {
        Self { fleet, upstream, decider, metrics, config, tasks, jobs: Mutex::default() }
    }

    pub fn running(&self, node: &str, model: &str) -> bool {
        self.lock().keys().any(|(n, m)| n == node && m == model)
    }

    /// Requests that wait for that load.
    pub(super) fn waiters(&self, node: &str, model: &str) -> u32 {
        let jobs = self.lock();
        let job = jobs.values().find(|job| job.node == node && job.model == model);
        job.map_or(0, |job| job.waiters.load(Ordering::Relaxed))
    }

    pub fn status(&self) -> Vec<JobStatus> {
        let jobs = self.lock();
        jobs.values()
            .map(|job| JobStatus {
                node: job.node.clone(),
                model: job.model.clone(),
                seconds: job.started.elapsed().as_secs_f64(),
                waiters: job.waiters.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// Returns once the model is resident on the node. Dropping the future leaves the job running.
    pub async fn ensure(self: &Arc<Self>, node: &Arc<Node>, model: &Model) -> Result<(), LoadFailure> {
        let waiting = Waiting::at(self.join(node, model));
        let mut done = waiting.0.done.clone();
        let outcome = done.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        match outcome {
            Ok(Some(outcome)) => outcome,
            // The job ended without an outcome: the gateway is shutting down.
            Ok(None) | Err(_) => Err(LoadFailure {
                status: StatusCode::SERVICE_UNAVAILABLE,
                code: "shutting_down".into(),
                message: "the gateway is shutting down".into(),
                elsewhere: false,
            }),
        }
    }

    fn join(self: &Arc<Self>, node: &Arc<Node>, model: &Model) -> Arc<Job> {
        let key = (node.name.clone(), model.id.clone());
        let mut jobs = self.lock();
        if let Some(job) = jobs.get(&key) {
            return job.clone();
        }
        let (sender, done) = watch::channel(None);
        let job = Arc::new(Job {
            node: node.name.clone(),
            model: model.id.clone(),
            started: Instant::now(),
            waiters: AtomicU32::new(0),
            done,
        });
        jobs.insert(key.clone(), job.clone());
        drop(jobs);
        let (loads, node, model) = (self.clone(), node.clone(), model.clone());
        self.tasks.spawn(async move {
            let outcome = loads.load(&node, &model).await;
            loads.lock().remove(&key);
            sender.send_replace(Some(outcome));
        });
        job
    }

    async fn load(&self, node: &Arc<Node>, model: &Model) -> Result<(), LoadFailure> {
        let _turn = node.loading.lock().await;
        // Somebody else may have loaded it since the view was made, or be about to.
        poll::refresh(self, node).await;
        let status = self.status_on(node, model);
        if status == Some(ModelStatus::Loaded) {
            return Ok(());
        }
        tracing::info!(node = node.name, model = model.id, "loading");
        let started = Instant::now();
        let begun =
            matches!(status, Some(ModelStatus::Loading | ModelStatus::Reloading | ModelStatus::Recovering));
        let outcome = self.place(node, model, begun).await;
        poll::refresh(self, node).await;
        let took = started.elapsed();
        let said = if outcome.is_ok() { "ok" } else { "failed" };
        self.metrics.loads.with_label_values(&[model.id.as_str(), node.name.as_str(), said]).inc();
        match &outcome {
            Ok(()) => {
                node.usage(&model.id).loaded_in(took);
                self.metrics
                    .load_duration
                    .with_label_values(&[model.id.as_str()])
                    .observe(took.as_secs_f64());
                tracing::info!(node = node.name, model = model.id, seconds = took.as_secs_f64(), "loaded");
                self.defrag(node).await;
            }
            Err(failure) => {
                tracing::warn!(node = node.name, model = model.id, code = failure.code, %failure, "load failed")
            }
        }
        outcome
    }

    fn status_on(&self, node: &Arc<Node>, model: &Model) -> Option<ModelStatus> {
        let fleet = self.fleet.now();
        Some(find(fleet.view(node)?, model)?.info.status)
    }

    /// Makes room and loads. A model whose load has begun there has its room.
    async fn place(&self, node: &Arc<Node>, model: &Model, begun: bool) -> Result<(), LoadFailure> {
        let devices = match begun {
            true => None,
            false => evict::make_room(self, node, model, per_device_mb(model)).await?,
        };
        let Err(error) = self.request(node, model, devices).await else { return Ok(()) };
        let refusal = refused::failure(node, model, &error);
        // The catalogue says too little of what the model takes, or nothing: the node knows.
        let fleet = self.fleet.now();
        let wanted = fleet.view(node).and_then(|view| refused::wanted_mb(view, &error));
        let Some(wanted) = wanted else { return Err(refusal) };
        match evict::make_room(self, node, model, wanted).await {
            Ok(devices) => self
                .request(node, model, devices)
                .await
                .map_err(|error| refused::failure(node, model, &error)),
            Err(failure) => {
                tracing::debug!(node = node.name, model = model.id, %failure, "no room after its refusal");
                Err(refusal)
            }
        }
    }

    async fn request(
        &self,
        node: &Node,
        model: &Model,
        devices: Option<Vec<u32>>,
    ) -> Result<(), UpstreamError> {
        let request = LoadRequest {
            model_id: model.node_id(),
            harness: model.harness.clone(),
            quant: model.quant.clone(),
            tensor_parallel: Some(model.min_devices).filter(|&n| n > 1),
            devices,
        };
        let answer: Result<LoadResponse, _> =
            self.upstream.post(&node.peer, "/models/load", &request, LOAD_LIMIT).await;
        answer.map(|_| ())
    }

    /// Every so many loads, where the configuration asks for it; nodes without the call are left alone.
    async fn defrag(&self, node: &Node) {
        let after = self.config.load().defrag_after_cycles;
        let cycles = node.cycles.fetch_add(1, Ordering::Relaxed) + 1;
        if after == 0 || cycles < after {
            return;
        }
        node.cycles.store(0, Ordering::Relaxed);
        let limit = Duration::from_secs(60);
        let answer: Result<serde_json::Value, _> =
            self.upstream.post(&node.peer, "/defrag", &serde_json::json!({}), limit).await;
        match answer {
            Ok(_) => tracing::info!(node = node.name, "asked to give cached memory back"),
            Err(error) => tracing::debug!(node = node.name, %error, "no defrag"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
