//! A seat for the model on one of the preferred nodes, where need be after loading it there.

use super::authenticate::Caller;
use super::forward::{Failed, Started, forward};
use super::read::Asked;
use super::recognise::Inference;
use super::resolve::Target;
use super::route::{Routed, route};
use super::settle::Ledger;
use crate::decide::Arm;
use crate::fleet::{LoadFailure, NodeView, Seat, find};
use crate::gateway::Gateway;
use crate::refusal::Refusal;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Everything between a resolved request and its first upstream event.
pub(super) struct Work {
    pub(super) gateway: Arc<Gateway>,
    pub(super) tenant: String,
    pub(super) kind: Inference,
    pub(super) asked: Asked,
    pub(super) target: Target,
    pub(super) seed: u64,
    pub(super) request_id: String,
    notes: Notes,
}

/// What the ledger is told of the work.
#[derive(Debug, Default, Clone)]
pub(super) struct Notes {
    pub(super) node: Option<String>,
    /// What it waited for a load.
    pub(super) cold_wait: Option<Duration>,
    /// Nodes tried.
    pub(super) attempts: u32,
    /// Whose decision was followed.
    pub(super) arm: Arm,
    /// When the request went to the node that it ended on.
    pub(super) dispatched: Option<Instant>,
}

/// When a client may try again whose model was not there in time.
const RETRY: Duration = Duration::from_secs(10);

impl Work {
    pub(super) fn new(
        gateway: &Arc<Gateway>,
        caller: &Caller,
        kind: Inference,
        asked: Asked,
        target: Target,
        ledger: &Ledger,
    ) -> Self {
        Self {
            gateway: gateway.clone(),
            tenant: caller.tenant.clone(),
            kind,
            asked,
            target,
            seed: ledger.seed,
            request_id: ledger.id.clone(),
            notes: Notes::default(),
        }
    }

    /// Until the node has said something that settles the status.
    pub(super) async fn run(mut self) -> (Result<Started, Refusal>, Notes) {
        let deadline = Instant::now() + self.gateway.config.load().max_wait;
        let outcome = self.through_nodes(deadline).await;
        (outcome, self.notes)
    }

    async fn through_nodes(&mut self, deadline: Instant) -> Result<Started, Refusal> {
        let nodes = self.route(deadline).await?;
        let mut last = Refusal::unavailable("no_node", "no neuron could serve the request", RETRY);
        for view in nodes {
            self.notes.attempts += 1;
            match self.try_node(&view, deadline).await {
                Ok(started) => return Ok(started),
                Err(Failed::Final(refusal)) => return Err(refusal),
                Err(Failed::Elsewhere(refusal)) => {
                    tracing::warn!(node = view.node.name, model = self.target.label, %refusal, "trying the next node");
                    view.node.poke();
                    last = refusal;
                }
            }
        }
        Err(self.not_there_yet(last))
    }

    /// A model of the catalogue exists, whatever the nodes say that it was just unloaded from.
    fn not_there_yet(&self, last: Refusal) -> Refusal {
        if !(self.target.catalogued && last.code == "model_not_found") {
            return last;
        }
        let message = format!("no node has {} loaded at the moment; try again", self.target.model.id);
        Refusal::unavailable("model_loading", message, RETRY)
    }

    /// The routing policy may ask to wait; a change of the fleet ends the wait early.
    async fn route(&mut self, deadline: Instant) -> Result<Vec<Arc<NodeView>>, Refusal> {
        let mut changes = self.gateway.fleet.changes();
        loop {
            changes.borrow_and_update();
            let (routed, arm) = route(self)?;
            self.notes.arm = arm;
            match routed {
                Routed::Nodes(nodes) => return Ok(nodes),
                Routed::Wait(time) => {
                    if Instant::now() >= deadline {
                        return Err(self.too_late());
                    }
                    tokio::select! {
                        () = tokio::time::sleep_until(deadline.min(Instant::now() + time)) => {}
                        _ = changes.changed() => {}
                    }
                }
            }
        }
    }

    async fn try_node(&mut self, view: &Arc<NodeView>, deadline: Instant) -> Result<Started, Failed> {
        let id = self.target.model.id.clone();
        // Before the load: the next one on this node must not evict the model before its waiters are there.
        let seat = view.node.seat(&id);
        let loaded = find(view, &self.target.model).is_some_and(|found| found.info.can_serve());
        // Counting tokens reads the model's files, not its weights.
        let needs_load = self.kind != Inference::Tokenize && !loaded;
        if needs_load {
            self.load(view, deadline).await?;
        }
        match self.forward(view, seat, deadline).await {
            // Unloaded behind the gateway's back, or its files were never there: once more, with a load.
            Err(Failed::Elsewhere(refusal))
                if refusal.code == "model_not_found" && !needs_load && self.target.catalogued =>
            {
                let seat = view.node.seat(&id);
                self.load(view, deadline).await?;
                self.forward(view, seat, deadline).await
            }
            outcome => outcome,
        }
    }

    async fn forward(
        &mut self,
        view: &Arc<NodeView>,
        seat: Seat,
        deadline: Instant,
    ) -> Result<Started, Failed> {
        self.notes.node = Some(view.node.name.clone());
        self.notes.dispatched = Some(Instant::now());
        // The newest view has the name under which a model that was just loaded is known there.
        let fleet = self.gateway.fleet.now();
        let fresh = fleet.view(&view.node).unwrap_or(view);
        let name = match find(fresh, &self.target.model) {
            Some(found) => found.info.id.clone(),
            None => self.target.model.node_id(),
        };
        forward(self, &view.node, &name, seat, deadline).await
    }

    async fn load(&mut self, view: &Arc<NodeView>, deadline: Instant) -> Result<(), Failed> {
        let started = Instant::now();
        let load = self.gateway.loads.ensure(&view.node, &self.target.model);
        let outcome = tokio::time::timeout_at(deadline, load).await;
        let waited = started.elapsed();
        *self.notes.cold_wait.get_or_insert_default() += waited;
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(refused(failure)),
            Err(_elapsed) => Err(Failed::Final(self.too_late())),
        }
    }

    fn too_late(&self) -> Refusal {
        let seconds = self.gateway.config.load().max_wait.as_secs();
        let message = format!("{} was not ready within {seconds} s; it may be later", self.target.model.id);
        Refusal::unavailable("model_loading", message, RETRY)
    }
}

fn refused(failure: LoadFailure) -> Failed {
    let elsewhere = failure.elsewhere;
    let retry_after = failure.status.is_server_error().then_some(RETRY);
    let refusal = Refusal { retry_after, ..Refusal::new(failure.status, &failure.code, failure.message) };
    if elsewhere { Failed::Elsewhere(refusal) } else { Failed::Final(refusal) }
}
