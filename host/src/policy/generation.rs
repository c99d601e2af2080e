//! One version of one policy, ready to serve. A request takes its generation once and keeps it.

use super::breaker::{Breaker, BreakerState, Faults};
use super::footprint::Footprint;
use super::gate::Setup;
use super::instance::{Fault, Problem};
use super::latency::{Latency, Quantiles};
use super::learner::Outcome;
use super::pool::Judged;
use super::router::{Decided, RouteRequest, RoutingPolicy, Topology};
use super::shared::{KvRead, Shared};
use super::translator::{TranslationPolicy, UpstreamPolicy};
use super::{Claim, Decision, Demand, Resident, Session, evictor::EvictionPolicy};
use crate::facts::{Columns, NodeFacts, RequestFacts, ResidentFacts};
use crate::metrics::PolicyMeters;
use arc_swap::ArcSwapOption;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What a policy judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Routing,
    Eviction,
    Translation,
    Upstream,
}

pub(super) enum Judge {
    Routing(Box<RoutingPolicy>),
    Eviction(Box<EvictionPolicy>),
    Translation(Box<TranslationPolicy>),
    Upstream(Box<UpstreamPolicy>),
}

/// What the gate found out about a component.
pub(super) struct About {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) kind: Kind,
    pub(super) sha256: String,
    pub(super) path: PathBuf,
}

/// A policy as it came through the gate.
pub struct Generation {
    pub name: String,
    pub version: String,
    pub kind: Kind,
    pub sha256: String,
    pub path: PathBuf,
    judge: Judge,
    shared: Arc<Shared>,
    footprint: Arc<Footprint>,
    meters: Option<PolicyMeters>,
    calls: AtomicU64,
    latency: Latency,
    breaker: Breaker,
    /// The last good generation of the same policy: it serves where this one's breaker opens.
    fallback: ArcSwapOption<Generation>,
}

/// A generation's figures.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Decisions, or sessions of a dialect.
    pub calls: u64,
    /// Of a decision; of a batch of events where it translates.
    #[serde(flatten)]
    pub latency: Quantiles,
    /// Alive now: warm ones and those of sessions.
    pub instances: usize,
    /// Bytes of linear memory over all of them.
    pub memory_bytes: usize,
    #[serde(flatten)]
    pub faults: Faults,
}

impl Generation {
    pub(super) fn new(about: About, judge: Judge, setup: Setup) -> Self {
        let Setup { shared, footprint, meters, .. } = setup;
        let About { name, version, kind, sha256, path } = about;
        Self {
            name,
            version,
            kind,
            sha256,
            path,
            judge,
            shared,
            footprint,
            meters,
            calls: AtomicU64::new(0),
            latency: Latency::new(),
            breaker: Breaker::new(),
            fallback: ArcSwapOption::empty(),
        }
    }

    /// What serves in this generation's name now: itself, the last good one, or, where neither may be
    /// asked, nothing, which means the built-in. A dialect has no built-in, and a fault costs its own
    /// stream alone: it goes on serving where there is nothing to go back to.
    pub fn in_force(self: &Arc<Self>) -> Option<Arc<Self>> {
        if self.breaker.is_closed() {
            return Some(self.clone());
        }
        if let Some(last_good) = self.fallback.load_full().filter(|g| g.breaker.is_closed()) {
            return Some(last_good);
        }
        // A dialect is asked either way, and by that it shows when it is well again.
        let may_be_asked = self.breaker.allows(Instant::now());
        let translates = matches!(self.kind, Kind::Translation | Kind::Upstream);
        (translates || may_be_asked).then(|| self.clone())
    }

    /// Remembers `previous`, or what it went back to itself, as the one to go back to.
    pub(super) fn follows(&self, previous: &Arc<Self>) {
        let older = previous.fallback.swap(None);
        let good = if previous.breaker.is_closed() { Some(previous.clone()) } else { older };
        self.fallback.store(good);
    }

    /// The generation that serves instead, where this one's breaker is open.
    pub fn rolled_back_to(&self) -> Option<Arc<Self>> {
        if self.breaker.is_closed() { None } else { self.fallback.load_full() }
    }

    /// Names of the facts that a routing policy reads: of nodes, of the request.
    pub fn routing_facts(&self) -> (&[String], &[String]) {
        match &self.judge {
            Judge::Routing(policy) => policy.facts(),
            _ => (&[], &[]),
        }
    }

    /// The columns of [`Self::routing_facts`].
    pub fn routing_columns(&self) -> (&Columns<NodeFacts>, &Columns<RequestFacts>) {
        static NODE: Columns<NodeFacts> = Columns::none();
        static REQUEST: Columns<RequestFacts> = Columns::none();
        match &self.judge {
            Judge::Routing(policy) => policy.columns(),
            _ => (&NODE, &REQUEST),
        }
    }

    /// `nodes` is row-major, nodes x facts. `watch_reads`: tell what it read from its store.
    pub fn route(
        &self,
        topology: &Topology,
        asked: &RouteRequest,
        nodes: &[u32],
        watch_reads: bool,
    ) -> Result<Decided<Decision>, Problem> {
        match &self.judge {
            Judge::Routing(policy) => self.watched(|| policy.route(topology, asked, nodes, watch_reads)),
            _ => Err(self.wrong_kind()),
        }
    }

    /// An answer that only its caller could see to be wrong.
    pub fn misjudged(&self, how: &str) -> Fault {
        let fault = Fault::Invalid(how.to_owned());
        self.went_wrong(&fault.to_string(), self.calls(), false);
        fault
    }

    /// Makes its store hold what a recorded call read from it: for making that call again.
    pub fn preload(&self, reads: &[KvRead]) {
        self.shared.replace(reads);
    }

    /// A route by an instance that is made for it and dropped: for measuring.
    pub fn fresh_route(
        &self,
        topology: &Topology,
        asked: &RouteRequest,
        nodes: &[u32],
    ) -> Result<(), Problem> {
        match &self.judge {
            Judge::Routing(policy) => policy.fresh_route(topology, asked, nodes).map(drop),
            _ => Err(self.wrong_kind()),
        }
    }

    /// Whether it wants to be told what came of its decisions.
    pub fn learns(&self) -> bool {
        matches!(&self.judge, Judge::Routing(policy) if policy.learner.is_some())
    }

    /// Tells a policy that learns what came of its decisions; to any other this means nothing.
    pub fn learn(&self, outcomes: &[Outcome]) {
        let Judge::Routing(policy) = &self.judge else { return };
        let Some(learner) = &policy.learner else { return };
        if let Err(Problem::Fault(fault)) = learner.learn(outcomes) {
            self.went_wrong(&fault.to_string(), self.calls(), false);
        }
    }

    /// Names of the facts of residents that an eviction policy reads.
    pub fn eviction_facts(&self) -> &[String] {
        match &self.judge {
            Judge::Eviction(policy) => policy.facts(),
            _ => &[],
        }
    }

    /// The columns of [`Self::eviction_facts`].
    pub fn eviction_columns(&self) -> &Columns<ResidentFacts> {
        static RESIDENT: Columns<ResidentFacts> = Columns::none();
        match &self.judge {
            Judge::Eviction(policy) => policy.columns(),
            _ => &RESIDENT,
        }
    }

    /// `facts` is row-major, residents x facts.
    pub fn plan(
        &self,
        demand: &Demand,
        residents: &[Resident],
        facts: &[u32],
        watch_reads: bool,
    ) -> Result<Decided<Vec<usize>>, Problem> {
        match &self.judge {
            Judge::Eviction(policy) => self.watched(|| policy.plan(demand, residents, facts, watch_reads)),
            _ => Err(self.wrong_kind()),
        }
    }

    /// What a dialect serves.
    pub fn claims(&self) -> &[Claim] {
        match &self.judge {
            Judge::Translation(policy) => policy.claims(),
            _ => &[],
        }
    }

    /// A session for the `endpoint`-th of [`Self::claims`]; an upstream's dialect has only one kind.
    pub fn session(&self, endpoint: u32, seed: u64) -> Result<Session, Problem> {
        let open = || match &self.judge {
            Judge::Translation(policy) => policy.session(endpoint, seed),
            Judge::Upstream(policy) => policy.session(seed),
            _ => Err(self.wrong_kind()),
        };
        // Relaxed: a figure for people.
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let session = open();
        self.count(&session);
        if let Err(Problem::Fault(fault)) = &session {
            self.went_wrong(&fault.to_string(), number, false);
        }
        session
    }

    /// Notes what a session's call took and came to. True where it was a fault.
    pub fn session_call<T>(&self, took: std::time::Duration, outcome: &Result<T, Problem>) -> bool {
        self.observe(took);
        let Err(Problem::Fault(fault)) = outcome else { return false };
        self.count(outcome);
        self.went_wrong(&fault.to_string(), self.calls(), false);
        true
    }

    /// Decisions or sessions so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub fn faults(&self) -> Faults {
        self.breaker.faults()
    }

    pub fn figures(&self) -> Figures {
        Figures {
            calls: self.calls(),
            latency: self.latency.quantiles(),
            instances: self.footprint.instances(),
            memory_bytes: self.footprint.bytes(),
            faults: self.faults(),
        }
    }

    fn watched<T>(&self, call: impl FnOnce() -> Result<Judged<T>, Problem>) -> Result<T, Problem> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let started = Instant::now();
        let answer = call();
        self.observe(started.elapsed());
        self.count(&answer);
        match &answer {
            Ok(Judged { mended: Some(fault), .. }) => self.went_wrong(&fault.to_string(), number, true),
            Err(Problem::Fault(fault)) => self.went_wrong(&fault.to_string(), number, false),
            _ => self.went_well(),
        }
        answer.map(|judged| judged.answer)
    }

    /// A session came to its end without a fault.
    pub fn session_ended(&self) {
        self.went_well();
    }

    fn went_well(&self) {
        if self.breaker.went_well() {
            tracing::info!(policy = self.name, sha256 = self.sha256, "is asked again: its probes went well");
        }
    }

    fn observe(&self, took: std::time::Duration) {
        self.latency.observe(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        if let Some(meters) = &self.meters {
            meters.duration.observe(took.as_secs_f64());
        }
    }

    fn count<T>(&self, outcome: &Result<T, Problem>) {
        let Some(meters) = &self.meters else { return };
        match outcome {
            Ok(_) => meters.ok.inc(),
            Err(Problem::Declined(_)) => meters.declined.inc(),
            Err(Problem::Fault(_)) => meters.fault.inc(),
            Err(Problem::Host(_)) => meters.host.inc(),
        }
    }

    fn went_wrong(&self, fault: &str, call: u64, mended: bool) {
        let (policy, sha256) = (self.name.as_str(), self.sha256.as_str());
        let opened = self.breaker.went_wrong(fault, call, mended, Instant::now());
        let faults = self.breaker.faults();
        // A policy that faults at every call must not flood the log as well.
        if faults.breaker == BreakerState::Closed && faults.strikes + faults.retried <= 100 {
            tracing::warn!(policy, sha256, fault, mended, "policy fault");
        }
        if !opened {
            return;
        }
        match self.fallback.load().as_ref().filter(|g| g.breaker.is_closed()) {
            Some(good) => {
                tracing::error!(policy, sha256, fault, back_to = good.sha256, "repeated faults: rolled back");
            }
            None if matches!(self.kind, Kind::Translation | Kind::Upstream) => {
                tracing::error!(policy, sha256, fault, "repeated faults, and nothing to go back to");
            }
            None => tracing::error!(policy, sha256, fault, "repeated faults: the built-in answer serves"),
        }
    }

    fn wrong_kind(&self) -> Problem {
        Problem::Host(format!("{} is not a policy of that kind", self.name))
    }
}
