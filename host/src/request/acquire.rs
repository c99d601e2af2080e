//! A seat for the model on one of the preferred nodes, where need be after loading it there.

use super::admit::ANSWER;
use super::foreign::{Original, TRANSLATION_FAILED};
use super::forward::{Failed, LACKS_MODEL, Started, forward};
use super::met::Met;
use super::read::Asked;
use super::recognise::Inference;
use super::resolve::Target;
use super::route::route;
use super::settle::Ledger;
use super::story::{Considered, Step, Story};
use super::trace::Trace;
use crate::config::Key;
use crate::decide::Arm;
use crate::fleet::{
    Ask, Denied, Fleet, Granted, LoadFailure, Node, NodeView, Priority, Routed, Seat, find, is_coming,
    returns_in,
};
use crate::gateway::Gateway;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::traffic::{Phase, Underway};
use http::StatusCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Everything between a resolved request and its first upstream event.
pub(super) struct Work {
    pub(super) gateway: Arc<Gateway>,
    pub(super) tenant: String,
    priority: Priority,
    pub(super) kind: Inference,
    pub(super) asked: Asked,
    /// As the client wrote it, where an upstream may read that.
    pub(super) original: Option<Box<Original>>,
    pub(super) target: Target,
    pub(super) seed: u64,
    pub(super) request_id: String,
    pub(super) trace: Option<Trace>,
    notes: Notes,
    underway: Arc<Underway>,
    /// Where the notes go at the end, also where the client leaves before it.
    slot: Slot,
}

/// What the ledger is told of the work.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) node: Option<String>,
    /// What it waited for the model to be there.
    pub(super) cold_wait: Option<Duration>,
    /// What it waited for its seats, the model being there or not.
    pub(super) queue_wait: Duration,
    pub(super) priority: Priority,
    /// Tokens of the prompt that the node's cache is taken to hold.
    pub(super) predicted: Option<u32>,
    /// Nodes tried.
    pub(super) attempts: u32,
    /// Whose decision was followed.
    pub(super) arm: Arm,
    /// Its policy.
    pub(super) by: String,
    pub(super) story: Story,
    /// When the request went to the node that it ended on.
    pub(super) dispatched: Option<Instant>,
}

/// Notes on their way to the ledger.
pub(super) type Slot = Arc<Mutex<Option<Notes>>>;

impl Drop for Work {
    fn drop(&mut self) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::mem::take(&mut self.notes));
    }
}

/// What the nodes have said so far.
struct Round {
    met: Vec<Met>,
    /// How many of them took it and broke off.
    broken: u32,
    /// The last one said nothing itself.
    broke: bool,
    /// The next try is one of the budget's.
    owes: bool,
    /// Nodes that had lost the model.
    looked_again: Vec<String>,
    wants_load: bool,
    may_load: bool,
    last: Option<Refusal>,
}

impl Default for Round {
    fn default() -> Self {
        Self {
            met: Vec::new(),
            broken: 0,
            broke: false,
            owes: false,
            looked_again: Vec::new(),
            wants_load: false,
            may_load: true,
            last: None,
        }
    }
}

/// Nodes that may break off over one request before the next is spared.
const MOST_BROKEN: u32 = 3;
/// When a client may try again whose model was not there in time.
const RETRY: Duration = Duration::from_secs(10);

impl Work {
    pub(super) fn new(
        gateway: &Arc<Gateway>,
        caller: &Key,
        kind: Inference,
        asked: Asked,
        target: Target,
        ledger: &Ledger,
    ) -> Self {
        Self {
            gateway: gateway.clone(),
            tenant: caller.name.clone(),
            priority: caller.priority,
            kind,
            asked,
            original: None,
            target,
            seed: ledger.seed,
            request_id: ledger.id.clone(),
            trace: ledger.trace.clone(),
            notes: Notes::default(),
            underway: ledger.underway.clone(),
            slot: ledger.slot.clone(),
        }
    }

    /// Until the node has said something that settles the status.
    pub(super) async fn run(mut self) -> Result<Started, Refusal> {
        let deadline = Instant::now() + self.gateway.config.load().max_wait;
        self.through_nodes(deadline).await
    }

    /// One node after the other, each with a seat, until one has begun an answer.
    async fn through_nodes(&mut self, deadline: Instant) -> Result<Started, Refusal> {
        self.notes.priority = self.priority;
        self.gateway.retries.earn();
        let mut round = Round::default();
        loop {
            let granted = match self.kind {
                // What reads the model's files alone needs neither its weights nor a place.
                kind if kind.is_about_tokens() && !round.wants_load => {
                    self.any_node(&round, deadline).await.map_err(Denied::Refused)
                }
                _ => self.seat(&round, deadline).await,
            };
            let Granted { view, seat, waited, cold } = match granted {
                Ok(granted) => granted,
                Err(denied) => return Err(self.not_there_yet(self.denied(denied, &mut round))),
            };
            self.tries_again(&mut round)?;
            self.notes.attempts += 1;
            self.notes.queue_wait += waited;
            if let Some(cold) = cold {
                *self.notes.cold_wait.get_or_insert_default() += cold;
            }
            let (node, span) = (view.node.name.clone(), self.span());
            self.notes.story.add(Step::Sent { node, span, waited, cold });
            match self.forward(&view, seat, deadline).await {
                Ok(started) => return Ok(started),
                Err(Failed::Final(refusal)) => {
                    self.failed(&view, &refusal);
                    return Err(refusal);
                }
                Err(failed) => {
                    let (refusal, broke, asked) = match failed {
                        Failed::Broke { refusal, asked } => (refusal, true, asked),
                        Failed::Elsewhere(refusal) | Failed::Final(refusal) => (refusal, false, false),
                    };
                    self.failed(&view, &refusal);
                    round.broken += u32::from(asked);
                    (round.broke, round.owes) = (broke, !broke && !lacks_model(&refusal));
                    self.spare_the_next(&round, &refusal)?;
                    tracing::warn!(node = view.node.name, model = self.target.label, %refusal, "trying the next node");
                    self.next(&mut round, &view, refusal, asked).await;
                }
            }
        }
    }

    fn failed(&mut self, view: &NodeView, refusal: &Refusal) {
        let (node, why) = (view.node.name.clone(), refusal.to_string());
        self.notes.story.add(Step::Failed { node, why });
    }

    /// Of the try that is under way.
    pub(super) fn span(&self) -> u64 {
        self.trace.as_ref().map_or(0, |trace| trace.attempt(self.notes.attempts))
    }

    /// A request over which several nodes break is not given to all of them.
    fn spare_the_next(&self, round: &Round, last: &Refusal) -> Result<(), Refusal> {
        if round.broken <= MOST_BROKEN {
            return Ok(());
        }
        self.gateway.metrics.retries.with_label_values(&["poison"]).inc();
        let message = format!("{} nodes broke off over this request: {last}", round.broken);
        Err(Refusal::new(StatusCode::BAD_GATEWAY, "upstream_broken", message))
    }

    /// There is another node for it. What one had that broke off must go somewhere; what one refused is tried again as
    /// the budget allows.
    fn tries_again(&self, round: &mut Round) -> Result<(), Refusal> {
        let count = |outcome: &str| self.gateway.metrics.retries.with_label_values(&[outcome]).inc();
        if let Some(last) = round.last.take_if(|_| round.owes && !self.gateway.retries.spend()) {
            count("budget");
            return Err(last);
        }
        if round.last.is_some() {
            count("tried");
        }
        Ok(())
    }

    /// What follows from a node's refusal.
    async fn next(&self, round: &mut Round, view: &Arc<NodeView>, refusal: Refusal, asked: bool) {
        let is_gone = lacks_model(&refusal) && view.node.offer().is_none();
        // Unloaded behind the gateway's back, or the daemon is another, or its files were never there: once more, with
        // a load.
        if is_gone && !round.looked_again.contains(&view.node.name) && self.will_be_there(view).await {
            round.looked_again.push(view.node.name.clone());
            round.wants_load = true;
        } else {
            let is_gone = is_gone && self.target.catalogued;
            // A node that is there and refuses is no reason to load the model on every other.
            round.may_load &= round.broke || is_gone;
            let known_by = self.returns(round, view, asked).then(|| self.known_by());
            round.met.push(Met::now(&view.node.name, asked, known_by));
            view.node.poke();
        }
        round.last = Some(refusal);
    }

    /// Looks at the node that lacks the model: one that is not the catalogue's is there again where the node loads it by
    /// itself, or has by now.
    async fn will_be_there(&self, view: &Arc<NodeView>) -> bool {
        self.gateway.loads.refresh(&view.node).await;
        let (fleet, model) = (self.gateway.fleet.now(), &self.target.model);
        let has = |now: &NodeView| find(now, model).is_some_and(|found| found.info.can_serve());
        self.target.catalogued || fleet.view(&view.node).is_some_and(|now| has(now) || is_coming(now, model))
    }

    /// Whether the node gets the request again, where it was only restarted.
    fn returns(&self, round: &Round, view: &NodeView, asked: bool) -> bool {
        let is_on = !self.gateway.config.load().node_return.is_zero();
        round.broke && is_on && Met::may_be_again(&round.met, &view.node.name, asked)
    }

    /// When a node that is not there any more is known to be down: after two polls, and some.
    fn known_by(&self) -> Instant {
        Instant::now() + self.gateway.config.load().poll_interval * 2 + Duration::from_secs(2)
    }

    fn denied(&self, denied: Denied, round: &mut Round) -> Refusal {
        let id = &self.target.model.id;
        match (denied, round.last.take()) {
            // No other node: what the last one said.
            (Denied::Refused(refusal), Some(last)) if refusal.code == "no_node" => last,
            (Denied::Refused(refusal), _) => refusal,
            (Denied::Failed(failure), _) => refused(failure),
            (Denied::Late { .. }, Some(last)) if !round.may_load => last,
            (Denied::Late { cold: true }, _) => self.too_late(),
            (Denied::Late { cold: false }, _) => {
                let seconds = self.gateway.config.load().max_wait.as_secs();
                let message = format!("{id} had no place within {seconds} s");
                Refusal::unavailable("overloaded", message, RETRY)
            }
            (Denied::Full, _) => {
                let message = format!("too many requests wait for {id}; try again later");
                let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message);
                Refusal { retry_after: Some(RETRY), ..refusal }
            }
        }
    }

    async fn seat(&mut self, round: &Round, deadline: Instant) -> Result<Granted, Denied> {
        let (loads, mut arm) = (self.gateway.loads.clone(), self.notes.arm);
        let (work, mut considered) = (&*self, None);
        work.underway.enter(Phase::Route);
        let mut choose = || {
            let (routed, whose, known) = route(work, &round.met)?;
            work.underway.enter(Phase::Acquire);
            (arm, considered) = (whose, known);
            work.but_for(routed, round)
        };
        let tokens = (work.asked.body.len() / 4) as u64 + u64::from(work.asked.max_tokens.unwrap_or(ANSWER));
        let ask = Ask {
            model: &work.target.model,
            catalogued: work.target.catalogued,
            tenant: &work.tenant,
            priority: work.priority,
            tokens,
            again: round.last.is_some(),
            may_load: round.may_load,
            deadline,
        };
        let granted = loads.seat(&ask, &mut choose).await;
        self.decided(arm, considered);
        granted
    }

    fn decided(&mut self, arm: Arm, considered: Option<Considered>) {
        self.notes.arm = arm;
        if let Some(considered) = considered {
            self.notes.by.clone_from(&considered.by);
            self.notes.story.add(Step::Decided(considered));
        }
    }

    /// Without those that were met.
    fn but_for(&self, routed: Routed, round: &Round) -> Result<Routed, Refusal> {
        let Routed::Nodes(mut nodes) = routed else { return Ok(routed) };
        nodes.retain(|view| !round.met.iter().any(|met| met.is(view)));
        if !round.may_load {
            nodes.retain(|view| find(view, &self.target.model).is_some_and(|found| found.info.can_serve()));
        }
        if !nodes.is_empty() {
            return Ok(Routed::Nodes(nodes));
        }
        let fleet = self.gateway.fleet.now();
        match self.returns_in(&fleet, &round.met) {
            Some(time) => Ok(Routed::Wait(time)),
            None => Err(Refusal::unavailable("no_node", "no neuron could serve the request", RETRY)),
        }
    }

    /// A daemon that is restarted is worth waiting for; whether one is may have to show yet.
    pub(super) fn returns_in(&self, fleet: &Fleet, met: &[Met]) -> Option<Duration> {
        let patience = self.gateway.config.load().node_return;
        let is_out = |view: &NodeView| met.iter().any(|met| met.is_for_good(view));
        returns_in(fleet, &self.target.model, self.target.catalogued, patience, is_out)
            .or_else(|| met.iter().filter_map(|met| met.undecided_for(fleet)).max())
    }

    /// The first of the preferred nodes, with a seat that counts for nothing but being there.
    async fn any_node(&mut self, round: &Round, deadline: Instant) -> Result<Granted, Refusal> {
        let mut changes = self.gateway.fleet.changes();
        loop {
            changes.borrow_and_update();
            let (routed, arm, considered) = route(self, &round.met)?;
            self.decided(arm, considered);
            let time = match self.but_for(routed, round)? {
                Routed::Nodes(nodes) => return self.that_counts(nodes),
                Routed::Wait(time) => time,
            };
            // Never an error: the sender is the fleet.
            let _changed =
                tokio::time::timeout_at(deadline.min(Instant::now() + time), changes.changed()).await;
            if Instant::now() >= deadline {
                return Err(Refusal::unavailable("no_node", "no neuron could serve the request", RETRY));
            }
        }
    }

    fn that_counts(&self, mut nodes: Vec<Arc<NodeView>>) -> Result<Granted, Refusal> {
        // Servers that speak OpenAI cannot.
        match nodes.iter().position(|view| counts(&view.node, self.kind)) {
            Some(first) => {
                let (view, seat) = (nodes.swap_remove(first), Seat::aside());
                Ok(Granted { view, seat, waited: Duration::ZERO, cold: None })
            }
            None => {
                let id = &self.target.model.id;
                let message = format!("{id} is at an upstream, and none of those counts tokens");
                Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "not_supported", message))
            }
        }
    }

    /// A model of the catalogue exists, whatever the nodes say that it was just unloaded from.
    fn not_there_yet(&self, last: Refusal) -> Refusal {
        if !(self.target.catalogued && last.code == "model_not_found") {
            return last;
        }
        let message = format!("no node has {} loaded at the moment; try again", self.target.model.id);
        Refusal::unavailable("model_loading", message, RETRY)
    }

    async fn forward(
        &mut self,
        view: &Arc<NodeView>,
        seat: Seat,
        deadline: Instant,
    ) -> Result<Started, Failed> {
        self.notes.node = Some(view.node.name.clone());
        self.notes.dispatched = Some(Instant::now());
        self.underway.at(&view.node.name);
        self.underway.enter(Phase::Forward);
        // The newest view has the name under which a model that was just loaded is known there.
        let fleet = self.gateway.fleet.now();
        let fresh = fleet.view(&view.node).unwrap_or(view);
        let name = match find(fresh, &self.target.model) {
            Some(found) => view.node.name_of(&found.info.id).to_owned(),
            None => self.target.model.node_id(),
        };
        let conversation = self.asked.conversation(&self.tenant);
        self.notes.predicted = fresh.cached(&name, &conversation);
        let assumed = fresh.assume(&name, &conversation);
        drop(conversation);
        let mut trial = Trial { node: &view.node, metrics: &self.gateway.metrics, told: None };
        let outcome = forward(self, &view.node, &name, seat, deadline).await;
        trial.told = tells(&outcome);
        drop(trial);
        match outcome {
            Ok(Started::Stream(mut flow)) => {
                flow.assumed = assumed;
                Ok(Started::Stream(flow))
            }
            Ok(whole) => Ok(whole),
            Err(failed) => {
                if let Some(assumed) = assumed {
                    assumed.deny();
                }
                Err(failed)
            }
        }
    }

    fn too_late(&self) -> Refusal {
        let seconds = self.gateway.config.load().max_wait.as_secs();
        let message = format!("{} was not ready within {seconds} s; it may be later", self.target.model.id);
        Refusal::unavailable("model_loading", message, RETRY)
    }
}

/// The node has not got it, or not yet.
fn lacks_model(refusal: &Refusal) -> bool {
    matches!(refusal.code.as_str(), "model_not_found" | "model_loading")
}

/// Whether it counts tokens: neurons do, and servers whose dialect has a call for it.
fn counts(node: &Node, kind: Inference) -> bool {
    node.offer().is_none() || (kind == Inference::Tokenize && node.dialect().is_some())
}

/// Tells the node's breaker how it went, also where the client leaves first.
struct Trial<'a> {
    node: &'a Node,
    metrics: &'a Metrics,
    told: Option<bool>,
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.node.took(self.told, self.metrics);
    }
}

/// Whether the node answered as one that is well; `None` where that cannot be told from it.
fn tells(outcome: &Result<Started, Failed>) -> Option<bool> {
    match outcome {
        Ok(_) => Some(true),
        Err(Failed::Final(refusal)) if refusal.code == "node_timeout" => Some(false),
        Err(Failed::Final(refusal)) => (!refusal.status.is_server_error()).then_some(true),
        Err(Failed::Broke { .. }) => Some(false),
        Err(Failed::Elsewhere(refusal)) => match refusal.status.as_u16() {
            _ if refusal.code == LACKS_MODEL => Some(true),
            _ if refusal.code == TRANSLATION_FAILED => None,
            500 | 502 | 504 => Some(false),
            // It is there and has too much to do.
            _ => None,
        },
    }
}

fn refused(failure: LoadFailure) -> Refusal {
    let retryable = failure.status.is_server_error() || failure.status == StatusCode::TOO_MANY_REQUESTS;
    let refusal = Refusal::new(failure.status, &failure.code, failure.message);
    Refusal { retry_after: retryable.then_some(RETRY), ..refusal }
}
