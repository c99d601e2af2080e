//! What happens beside decisions, never on a request's path: one thread, one bounded queue.
//! Where the queue is full, what does not fit is counted and dropped.

use super::record::{Record, Writer};
use crate::facts::{NodeFacts, RequestFacts};
use crate::metrics::Metrics;
use crate::policy::{Decision, Generation, Kind, Outcome, Registry, RouteRequest, Topology};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Jobs that may wait.
const QUEUE: usize = 1024;
/// Outcomes are told in batches: at most so many …
const BATCH: usize = 256;
/// … and at the latest after this.
const BATCH_TIME: Duration = Duration::from_millis(500);
/// Differences of a shadow that are logged, a second.
const LINES_A_SECOND: u32 = 5;

pub(super) enum Job {
    Shadow(Box<Shadow>),
    Record(PathBuf, Box<Record>),
    Outcome(Outcome),
}

/// A decision that the shadow shall make too.
pub(super) struct Shadow {
    pub(super) policy: Arc<Generation>,
    pub(super) topology: Arc<Topology>,
    pub(super) nodes: Vec<NodeFacts>,
    pub(super) asked: RouteRequest,
    pub(super) of_request: RequestFacts,
    /// The answer that was followed; `None`: the built-in's.
    pub(super) live: Option<Decision>,
}

/// Hands jobs to the thread. The thread ends when the last of these is gone.
pub(super) struct Aside {
    sender: SyncSender<Job>,
    metrics: Arc<Metrics>,
}

impl Aside {
    pub(super) fn start(policies: Arc<Registry>, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let worker = Worker {
            policies,
            metrics: metrics.clone(),
            writer: None,
            outcomes: Vec::new(),
            window: (Instant::now(), 0),
        };
        std::thread::Builder::new().name("policy-aside".into()).spawn(move || worker.run(&receiver))?;
        Ok(Self { sender, metrics })
    }

    pub(super) fn push(&self, job: Job) {
        let Err(full) = self.sender.try_send(job) else { return };
        let (std::sync::mpsc::TrySendError::Full(job) | std::sync::mpsc::TrySendError::Disconnected(job)) =
            full;
        match job {
            Job::Shadow(shadow) => {
                self.metrics.policy_shadow.with_label_values(&[shadow.policy.name.as_str(), "dropped"]).inc();
            }
            Job::Record(..) => self.metrics.decisions_recorded.with_label_values(&["dropped"]).inc(),
            // A policy that learns learns from the next one.
            Job::Outcome(_) => {}
        }
    }
}

struct Worker {
    policies: Arc<Registry>,
    metrics: Arc<Metrics>,
    writer: Option<Writer>,
    outcomes: Vec<Outcome>,
    window: (Instant, u32),
}

impl Worker {
    fn run(mut self, jobs: &Receiver<Job>) {
        let mut told = Instant::now();
        loop {
            match jobs.recv_timeout(BATCH_TIME) {
                Ok(Job::Shadow(shadow)) => self.shadow(*shadow),
                Ok(Job::Record(path, record)) => self.record(path, &record),
                Ok(Job::Outcome(outcome)) => self.outcomes.push(outcome),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.outcomes.len() >= BATCH || told.elapsed() >= BATCH_TIME {
                self.tell();
                told = Instant::now();
            }
        }
    }

    fn shadow(&mut self, shadow: Shadow) {
        let Shadow { policy, topology, nodes, mut asked, of_request, live } = shadow;
        let (node_columns, request_columns) = policy.routing_columns();
        let rows = node_columns.rows(&nodes);
        asked.facts = request_columns.row(&of_request);
        let answer = policy.route(&topology, &asked, &rows, false).map(|decided| decided.answer).ok();
        let outcome = match (&answer, &live) {
            (None, _) => "failed",
            (Some(shadow), Some(live)) if first(shadow) == first(live) => "same",
            _ => "differs",
        };
        self.metrics.policy_shadow.with_label_values(&[policy.name.as_str(), outcome]).inc();
        if outcome == "differs" && self.may_log() {
            let (shadow, model) = (policy.name.as_str(), asked.model.as_str());
            tracing::info!(shadow, model, seed = asked.seed, ?answer, ?live, "the shadow decides otherwise");
        }
    }

    fn may_log(&mut self) -> bool {
        if self.window.0.elapsed() > Duration::from_secs(1) {
            self.window = (Instant::now(), 0);
        }
        self.window.1 += 1;
        self.window.1 <= LINES_A_SECOND
    }

    fn record(&mut self, path: PathBuf, record: &Record) {
        if self.writer.as_ref().is_none_or(|writer| writer.path() != path) {
            self.writer = None;
        }
        let written = match &mut self.writer {
            Some(writer) => writer.write(record),
            None => Writer::open(&path).and_then(|mut writer| {
                writer.write(record)?;
                self.writer = Some(writer);
                Ok(())
            }),
        };
        let outcome = if written.is_ok() { "written" } else { "failed" };
        self.metrics.decisions_recorded.with_label_values(&[outcome]).inc();
        if let Err(error) = written {
            self.writer = None;
            if self.may_log() {
                tracing::error!(path = %path.display(), %error, "a decision could not be recorded");
            }
        }
    }

    fn tell(&mut self) {
        if self.outcomes.is_empty() {
            return;
        }
        let outcomes = std::mem::take(&mut self.outcomes);
        let table = self.policies.table();
        for policy in table.all(Kind::Routing).filter(|policy| policy.learns()) {
            policy.learn(&outcomes);
        }
    }
}

/// What a request does first is what differs for a client; the rest is for when that fails.
fn first(decision: &Decision) -> (Option<usize>, u16) {
    match decision {
        Decision::Pick(order) => (order.first().copied(), 0),
        Decision::Wait(_) => (None, 1),
        Decision::Reject(status, _) => (None, *status),
    }
}
