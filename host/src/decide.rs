//! Judgement on a request's path: the live policy's, a canary's for its share, the built-in's where
//! those have none. Beside the path: a shadow's, the record, what policies learn.

mod aside;
mod canary;
mod record;
pub mod replay;

pub use canary::{Arm, Tally, Trial};
pub use record::{Answer, Asked as AskedRecord, By, Record};

use crate::config::Config;
use crate::facts::{NodeFacts, RequestFacts, ResidentFacts};
use crate::metrics::Metrics;
use crate::policy::{
    self, Decided, Decision, Demand, Generation, Kind, Outcome, Problem, Registry, Resident, RouteRequest,
    Table, Topology,
};
use aside::{Aside, Job, Shadow};
use canary::Canary;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Asks policies. One for the process.
pub struct Decider {
    policies: Arc<Registry>,
    metrics: Arc<Metrics>,
    canary: Canary,
    aside: Aside,
    /// Some routing policy wants outcomes: spares everybody else the work.
    learning: AtomicBool,
}

/// A request and the fleet, as far as routing may know them.
pub struct Asked<'a> {
    pub topology: &'a Arc<Topology>,
    pub nodes: &'a [NodeFacts],
    /// Its facts are filled in for each policy.
    pub request: RouteRequest,
    pub of_request: RequestFacts,
}

impl Decider {
    /// Errors when its thread cannot start.
    pub fn new(policies: Arc<Registry>, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let aside = Aside::start(policies.clone(), metrics.clone())?;
        Ok(Self { policies, metrics, canary: Canary::default(), aside, learning: AtomicBool::new(false) })
    }

    /// A decision, and whose it is; `None` where no policy has one.
    pub fn route(&self, config: &Config, mut asked: Asked<'_>) -> (Option<Decision>, Arm) {
        let table = self.policies.table();
        let live = table.get(&config.routing_policy, Kind::Routing);
        // Relaxed: an outcome more or less.
        self.learning.store(live.as_ref().is_some_and(|g| g.learns()), Ordering::Relaxed);
        let (decision, arm, by) = match self.on_trial(config, &table, &mut asked) {
            Some((decision, by)) => (Some(decision), Arm::Canary, by),
            None => {
                let (decision, by) = live.map_or((None, By::default()), |policy| {
                    self.ask(&policy, &mut asked, config.record.is_some())
                });
                (decision, Arm::Live, by)
            }
        };
        self.beside(config, &table, asked, decision.as_ref(), by);
        (decision, arm)
    }

    /// The canary's decision, where this request is of its share. Any fault ends its trial.
    fn on_trial(&self, config: &Config, table: &Table, asked: &mut Asked<'_>) -> Option<(Decision, By)> {
        let on_trial = config.canary.as_ref()?;
        let policy = table.get(&on_trial.policy, Kind::Routing)?;
        if !self.canary.takes(on_trial, &policy, &asked.request) {
            return None;
        }
        let before = policy.faults();
        let (decision, by) = self.ask(&policy, asked, config.record.is_some());
        let after = policy.faults();
        if (after.strikes, after.retried) != (before.strikes, before.retried) {
            self.withdraw(&policy, "fault", after.last.unwrap_or_default());
        }
        decision.map(|decision| (decision, by))
    }

    fn withdraw(&self, policy: &Generation, reason: &str, text: String) {
        if self.canary.withdraw(policy, text) {
            self.metrics.canary_withdrawn.with_label_values(&[policy.name.as_str(), reason]).inc();
        }
    }

    fn ask(&self, policy: &Generation, asked: &mut Asked<'_>, watch_reads: bool) -> (Option<Decision>, By) {
        let (node_columns, request_columns) = policy.routing_columns();
        let rows = node_columns.rows(asked.nodes);
        asked.request.facts = request_columns.row(&asked.of_request);
        let mut answer = policy.route(asked.topology, &asked.request, &rows, watch_reads);
        if let Ok(Decided { answer: Decision::Pick(order), .. }) = &answer {
            let able = |i: usize| asked.nodes[i].is_able();
            // To name none that can serve, while one could, is no opinion but a mistake.
            if !order.iter().any(|&i| able(i)) && (0..asked.nodes.len()).any(able) {
                answer = Err(policy.misjudged("it picks no node that can serve").into());
            }
        }
        by(policy, answer)
    }

    fn beside(&self, config: &Config, table: &Table, asked: Asked<'_>, decision: Option<&Decision>, by: By) {
        if let Some(path) = &config.record {
            let Asked { topology, nodes, request, of_request } = &asked;
            let record = record::route(by, topology, request, nodes, of_request, decision.map(Answer::from));
            self.aside.push(Job::Record(path.clone(), Box::new(record)));
        }
        let shadow = config.shadow_policy.as_ref().and_then(|name| table.get(name, Kind::Routing));
        if let Some(policy) = shadow {
            self.aside.push(Job::Shadow(Box::new(Shadow {
                policy,
                topology: asked.topology.clone(),
                nodes: asked.nodes.to_vec(),
                asked: asked.request,
                of_request: asked.of_request,
                live: decision.cloned(),
            })));
        }
    }

    /// Which residents make room, in order; empty where none may. And the policy that said so; `None`: the built-in.
    pub fn plan(
        &self,
        config: &Config,
        demand: &Demand,
        residents: &[Resident],
        facts: &[ResidentFacts],
    ) -> (Vec<usize>, Option<String>) {
        let policy = self.policies.table().get(&config.eviction_policy, Kind::Eviction);
        let (judged, by) = match policy {
            None => (None, By::default()),
            Some(policy) => {
                let rows = policy.eviction_columns().rows(facts);
                by(&policy, policy.plan(demand, residents, &rows, config.record.is_some()))
            }
        };
        let judge = by.policy.clone().filter(|_| judged.is_some());
        let victims =
            judged.unwrap_or_else(|| policy::least_recently_used(&demand.device_mb, residents, facts));
        if let Some(path) = &config.record {
            let record = record::plan(by, demand, residents, facts, victims.clone());
            self.aside.push(Job::Record(path.clone(), Box::new(record)));
        }
        (victims, judge)
    }

    /// What came of a request.
    pub fn outcome(&self, arm: Arm, outcome: impl FnOnce() -> Outcome, status: u16) {
        if self.canary.count(arm, status)
            && let Some(trial) = self.canary.trial()
        {
            self.metrics.canary_withdrawn.with_label_values(&[trial.policy.as_str(), "errors"]).inc();
        }
        if self.learning.load(Ordering::Relaxed) {
            self.aside.push(Job::Outcome(outcome()));
        }
    }

    /// The canary under way or taken back; `None` before the first.
    pub fn trial(&self) -> Option<Trial> {
        self.canary.trial()
    }
}

/// The answer if there is one, and the account of it.
fn by<T>(policy: &Generation, answer: Result<Decided<T>, Problem>) -> (Option<T>, By) {
    let (policy_name, sha256) = (Some(policy.name.clone()), Some(policy.sha256.clone()));
    match answer {
        Ok(Decided { answer, reads }) => {
            (Some(answer), By { policy: policy_name, sha256, reads, problem: None })
        }
        Err(problem) => {
            tracing::debug!(policy = policy.name, %problem, "no answer from the policy; the built-in's serves");
            let problem = Some(problem.to_string());
            (None, By { policy: policy_name, sha256, reads: Vec::new(), problem })
        }
    }
}
