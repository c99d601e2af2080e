//! One load on one node: look, make room, load.

use super::super::evict::{NotNow, make_room};
use super::super::hosts::Shift;
use super::super::place::{find, per_device_mb};
use super::super::plan::Need;
use super::super::{Node, What, poll};
use super::{Job, LoadFailure, Loads, Why, limit, refused};
use crate::config::Model;
use crate::upstream::UpstreamError;
use neuron_protocol::{Lease, LoadRequest, ModelStatus, UnloadRequest, feature};
use std::sync::Arc;
use tokio::time::Instant;

/// Milliseconds that a fresh model is kept from other gateways, so that those who waited meet it.
const LEASE_MS: u64 = 10_000;

impl Loads {
    /// `choosy`: another node may do, so it is not waited for this one's turn.
    pub(super) async fn load_on(
        &self,
        job: &Job,
        node: &Arc<Node>,
        model: &Model,
        choosy: bool,
    ) -> Result<(), NotNow> {
        let _turn = match node.loading.try_lock() {
            Ok(turn) => turn,
            Err(_) if choosy => {
                let message = format!("node {} is loading another model", node.name);
                return Err(NotNow::Later(LoadFailure::unavailable("node_busy", message)));
            }
            Err(_) => node.loading.lock().await,
        };
        job.is_at(Some(node), "looking");
        // Somebody else may have loaded it since the view was made, or be about to.
        poll::refresh(self, node).await;
        let (status, serves) = self.status_on(node, model);
        if serves {
            return Ok(());
        }
        tracing::info!(node = node.name, model = model.id, why = ?job.why, "loading");
        let started = Instant::now();
        let mut outcome = self.place(job, node, model, status).await;
        poll::refresh(self, node).await;
        if outcome.is_ok() && !self.status_on(node, model).1 {
            let message =
                format!("node {} says that it has loaded {}, and does not list it", node.name, model.id);
            // One that ends lists nothing any more.
            let is_there = self.fleet.now().view(node).is_some_and(|view| view.seen_since(started));
            outcome = Err(match is_there {
                true => NotNow::Never(LoadFailure::unavailable("load_failed", message)),
                false => {
                    let failure = LoadFailure::unavailable("node_unavailable", message);
                    NotNow::Gone { failure, begun: false }
                }
            });
        }
        self.book(job.why, node, model, started, &outcome);
        outcome
    }

    fn book(
        &self,
        why: Why,
        node: &Arc<Node>,
        model: &Model,
        started: Instant,
        outcome: &Result<(), NotNow>,
    ) {
        let (usage, took) = (node.usage(&model.id), started.elapsed());
        let (id, name) = (model.id.as_str(), node.name.as_str());
        match outcome {
            Ok(()) => {
                usage.loaded_in(took);
                node.cycled();
                self.metrics.loads.with_label_values(&[id, name, "ok"]).inc();
                self.metrics.load_duration.with_label_values(&[id]).observe(took.as_secs_f64());
                tracing::info!(node = name, model = id, seconds = took.as_secs_f64(), "loaded");
                self.chronicle.add(What::Loaded, id, name, why.name().to_owned(), Some(took.as_secs_f64()));
            }
            Err(NotNow::Later(failure) | NotNow::Gone { failure, begun: false }) => {
                tracing::debug!(node = name, model = id, %failure, "not now");
            }
            Err(NotNow::Gone { failure, .. } | NotNow::Never(failure)) => {
                // What is wrong with the model itself is found out quickly, and may be mended at any time; a daemon
                // that is restarted is another.
                let is_over = matches!(outcome, Err(NotNow::Never(_)));
                if is_over && failure.status.is_server_error() && failure.code != "insufficient_vram" {
                    usage.load_failed(failure);
                }
                self.metrics.loads.with_label_values(&[id, name, "failed"]).inc();
                let said = format!("{}: {}", failure.code, failure.message);
                self.chronicle.add(What::LoadFailed, id, name, said, Some(took.as_secs_f64()));
                tracing::warn!(node = name, model = id, code = failure.code, %failure, "load failed");
            }
        }
    }

    /// With whether it can serve.
    fn status_on(&self, node: &Arc<Node>, model: &Model) -> (Option<ModelStatus>, bool) {
        let fleet = self.fleet.now();
        let info = fleet.view(node).and_then(|view| find(view, model)).map(|found| found.info);
        (info.map(|info| info.status), info.is_some_and(|info| info.can_serve()))
    }

    /// Makes room and loads. A model whose load has begun there has its room.
    async fn place(
        &self,
        job: &Job,
        node: &Arc<Node>,
        model: &Model,
        status: Option<ModelStatus>,
    ) -> Result<(), NotNow> {
        use ModelStatus::{Loading, Parked, Recovering, Reloading};
        let wanted = per_device_mb(node, model);
        let devices = match status {
            Some(Loading | Reloading | Recovering) => None,
            _ => make_room(self, job, node, model, Need::of(wanted)).await?,
        };
        job.is_at(Some(node), "loading");
        if status == Some(Parked) {
            let limit = limit::load_limit(model, node);
            let wake = UnloadRequest { model_id: model.node_id(), ..UnloadRequest::default() };
            match self.hosts.shift(node, Shift::Wake, &wake, limit).await {
                Ok(_) => return Ok(()),
                Err(error) => tracing::warn!(node = node.name, model = model.id, %error, "not woken"),
            }
        }
        let Err(error) = self.request(node, model, devices).await else { return Ok(()) };
        let refusal = refused::failure(node, model, &error);
        // The catalogue says too little of what the model takes, or nothing: the node knows.
        let Some(need) = refused::need(&error) else { return Err(NotNow::over(&error, refusal)) };
        match make_room(self, job, node, model, need).await {
            Ok(devices) => {
                let again = self.request(node, model, devices).await;
                again.map_err(|error| NotNow::over(&error, refused::failure(node, model, &error)))
            }
            Err(passes @ (NotNow::Later(_) | NotNow::Gone { .. })) => Err(passes),
            Err(NotNow::Never(failure)) => {
                tracing::debug!(node = node.name, model = model.id, %failure, "no room after its refusal");
                Err(NotNow::Never(refusal))
            }
        }
    }

    async fn request(
        &self,
        node: &Arc<Node>,
        model: &Model,
        devices: Option<Vec<u32>>,
    ) -> Result<(), UpstreamError> {
        let fleet = self.fleet.now();
        let leases = fleet.view(node).is_some_and(|view| view.discovery.has(feature::LOAD_PROGRESS));
        let request = LoadRequest {
            model_id: model.node_id(),
            harness: model.harness.clone(),
            quant: model.quant.clone(),
            tensor_parallel: Some(model.min_devices).filter(|&n| n > 1),
            devices,
            wait: None,
            lease: leases.then(|| Lease { holder: self.holder.clone(), ms: LEASE_MS }),
        };
        self.hosts.load(node, &request, limit::load_limit(model, node)).await.map(|_| ())
    }
}
