//! A fleet in simulated time, with everything between a request's model and its seat as it is in the gateway.

use super::hosts::{SimHosts, SimNode, Weights, features};
use arc_swap::ArcSwap;
use cortex::config::Config;
use cortex::decide::{Asked, Decider};
use cortex::facts::{NodeFacts, RequestFacts, state};
use cortex::fleet::{
    Ask, Conversation, Denied, FleetState, Keeper, Loads, NodeState, Pollers, Priority, Routed, facts,
};
use cortex::metrics::Metrics;
use cortex::policy::{self, Decision, PolicyEngine, Registry, RouteRequest};
use cortex::refusal::Refusal;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub struct World {
    pub hosts: Arc<SimHosts>,
    pub fleet: Arc<FleetState>,
    pub loads: Arc<Loads>,
    pub config: Arc<ArcSwap<Config>>,
    decider: Arc<Decider>,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

/// How a request went.
#[derive(Debug, Clone)]
pub struct Went {
    pub model: String,
    pub tenant: String,
    pub outcome: Outcome,
    /// Until it had a seat, or was refused.
    pub waited: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Served,
    /// It had a seat where the model was not.
    Missed,
    Refused(String),
    Late,
    Full,
}

/// A model of the catalogue, and what it is.
pub struct SimModel {
    pub id: String,
    pub mb: u64,
    /// More lines of its entry.
    pub lines: String,
}

pub fn model(id: &str, mb: u64, lines: &str) -> SimModel {
    SimModel { id: id.into(), mb, lines: lines.into() }
}

/// A node with one device, or several.
pub fn node(devices: &[u64], speed: u64) -> SimNode {
    SimNode { devices: devices.to_vec(), speed, capacity: 8, features: features(), ..SimNode::default() }
}

impl World {
    /// `settings`: more of cortex.toml. `policies`: where built ones lie, if any are to judge.
    pub async fn start(
        nodes: Vec<(String, SimNode)>,
        models: &[SimModel],
        settings: &str,
        policies: Option<&Path>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut text = String::from(settings);
        if let Some(policies) = policies {
            text += &format!("[policies]\ndirs = [{policies:?}]\n");
        }
        for (name, _) in &nodes {
            text += &format!("[[neurons]]\nname = {name:?}\nendpoint = \"http://127.0.0.1:1\"\n");
        }
        let entry = |m: &SimModel| format!("[[models]]\nid = {:?}\nvram_mb = {}\n{}\n", m.id, m.mb, m.lines);
        std::fs::write(dir.path().join("cortex.toml"), text).unwrap();
        std::fs::write(dir.path().join("models.toml"), models.iter().map(entry).collect::<String>()).unwrap();
        let config = Config::load(&dir.path().join("cortex.toml")).unwrap();
        let weights = config.catalogue.models().map(|m| {
            let (pinned, min_residency) = (m.pinned, m.min_residency().unwrap_or_default());
            let mb = m.vram_mb.unwrap();
            (m.id.clone(), Weights { mb, pinned, min_residency })
        });
        let hosts = SimHosts::new(nodes.into_iter().collect(), weights.collect());
        let metrics = Arc::new(Metrics::new().unwrap());
        let engine = Arc::new(PolicyEngine::new(None, 1 << 20).unwrap());
        let registry = Arc::new(Registry::new(engine, metrics.clone()));
        registry.configure(config.policies.clone());
        let decider = Arc::new(Decider::new(registry, metrics.clone()).unwrap());
        let (fleet, tasks, stop) =
            (Arc::new(FleetState::default()), TaskTracker::new(), CancellationToken::new());
        let config = Arc::new(ArcSwap::from_pointee(config));
        let (f, h, m, c) = (fleet.clone(), hosts.clone(), metrics.clone(), config.clone());
        let pollers = Pollers::new(f, h, m, c, tasks.clone(), stop.clone());
        pollers.apply(&config.load());
        let (f, h, c, t) = (fleet.clone(), hosts.clone(), config.clone(), tasks.clone());
        let loads = Arc::new(Loads::new(f, h, decider.clone(), metrics, c, t));
        tasks.spawn(Keeper::new(loads.clone(), tasks.clone()).run(stop.clone()));
        let world = Self { hosts, fleet, loads, config, decider, stop, _dir: dir };
        while !world.fleet.now().nodes.iter().all(|view| view.state == NodeState::Up) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        world
    }

    /// A request that runs for `service` once it has a seat.
    pub async fn request(&self, model: &str, tenant: &str, priority: Priority, service: Duration) -> Went {
        let config = self.config.load_full();
        let model = config.catalogue.get(model).unwrap();
        let started = Instant::now();
        let ask = Ask {
            model,
            catalogued: true,
            tenant,
            priority,
            tokens: service.as_millis() as u64,
            again: false,
            may_load: true,
            deadline: started + config.max_wait,
        };
        let mut choose = || {
            let (fleet, facts) = (self.fleet.now(), self.facts(&model.id));
            let order = match self.decide(&model.id, &facts) {
                Some(Decision::Wait(time)) => return Ok(Routed::Wait(time)),
                Some(Decision::Reject(..)) => Vec::new(),
                Some(Decision::Pick(order)) => order,
                None => policy::least_loaded(&facts),
            };
            let order = order.into_iter().filter(|&i| facts[i].is_able());
            let order: Vec<_> = order.map(|i| fleet.nodes[i].clone()).collect();
            match order.is_empty() {
                true => Err(Refusal::unavailable("no_node", "none", Duration::from_secs(1))),
                false => Ok(Routed::Nodes(order)),
            }
        };
        let granted = self.loads.seat(&ask, &mut choose).await;
        let waited = started.elapsed();
        let outcome = match granted {
            Ok(granted) => {
                let name = granted.view.node.name.clone();
                if self.hosts.begin(&name, &model.id) {
                    tokio::time::sleep(service).await;
                    self.hosts.end(&name, &model.id);
                    Outcome::Served
                } else {
                    // As the gateway does it: the node is looked at, and the request tried again.
                    self.loads.refresh(&granted.view.node).await;
                    Outcome::Missed
                }
            }
            Err(Denied::Refused(refusal)) => Outcome::Refused(refusal.code),
            Err(Denied::Failed(failure)) => Outcome::Refused(failure.code),
            Err(Denied::Late { .. }) => Outcome::Late,
            Err(Denied::Full) => Outcome::Full,
        };
        Went { model: model.id.clone(), tenant: tenant.to_owned(), outcome, waited }
    }

    /// The routing policy's decision, where there is one.
    pub fn decide(&self, model: &str, nodes: &[NodeFacts]) -> Option<Decision> {
        let fleet = self.fleet.now();
        let request = RouteRequest {
            model: model.to_owned(),
            tenant: "t".into(),
            session: None,
            seed: 1,
            now_ms: 1,
            facts: Vec::new(),
        };
        let of_request = RequestFacts { prompt_tokens: Some(500), ..RequestFacts::default() };
        let asked = Asked { topology: &fleet.topology, nodes, request, of_request };
        self.decider.route(&self.config.load(), asked).0
    }

    /// Nothing is held or waited for by anybody.
    pub fn is_at_rest(&self) -> bool {
        let fleet = self.fleet.now();
        fleet.nodes.iter().all(|view| view.node.in_flight() == 0)
            && self.loads.crowded().is_empty()
            && self.hosts.nodes().values().all(|n| n.residents.values().all(|r| r.in_flight == 0))
    }

    /// Where a model is, by the nodes themselves.
    pub fn copies(&self, model: &str) -> usize {
        let has = |node: &&SimNode| node.residents.get(model).is_some_and(|r| r.since.is_some());
        self.hosts.nodes().values().filter(has).count()
    }

    /// Facts as routing has them, for benches.
    pub fn facts(&self, model: &str) -> Vec<NodeFacts> {
        let config = self.config.load_full();
        let model = config.catalogue.get(model).unwrap();
        facts(&self.fleet.now(), model, true, &self.loads, &Conversation::default())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Whether any node could serve it.
pub fn able(facts: &[NodeFacts]) -> bool {
    facts.iter().any(|f| f.state.is_some_and(|s| s > state::CANNOT))
}

/// Counts of outcomes.
pub fn outcomes(went: &[Went]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for one in went {
        *counts.entry(format!("{:?}", one.outcome)).or_default() += 1;
    }
    counts
}
