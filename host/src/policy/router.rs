//! Routing policies: facts in, an ordered preference of nodes out.

use super::bindings::routing::exports::cortex::policy::router as wit;
use super::bindings::routing::{RoutingPolicy as Bindings, RoutingPolicyPre};
use super::gate::Setup;
use super::instance::{Fault, Instance, Problem, store};
use super::learner::Learner;
use super::pool::{Judged, Pool};
use super::shared::KvRead;
use super::state::HostState;
use super::{Declined, limits};
use crate::facts::{Columns, NodeFacts, RequestFacts};

/// The members of the fleet, in the order in which facts and decisions count them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    pub epoch: u64,
    pub names: Vec<String>,
}

/// A request, as far as routing may know it.
#[derive(Debug, Clone, Default)]
pub struct RouteRequest {
    pub model: String,
    pub tenant: String,
    pub session: Option<u64>,
    pub seed: u64,
    pub now_ms: u64,
    /// In the order of the policy's facts of the request.
    pub facts: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Node indices, best first, each in range and once.
    Pick(Vec<usize>),
    Wait(std::time::Duration),
    Reject(u16, String),
}

/// An answer, and what the policy read from its store for it where that was asked for.
#[derive(Debug)]
pub struct Decided<T> {
    pub answer: T,
    pub reads: Vec<KvRead>,
}

pub(super) struct RoutingPolicy {
    pre: RoutingPolicyPre<HostState>,
    setup: Setup,
    wanted: wit::Wanted,
    node_columns: Columns<NodeFacts>,
    request_columns: Columns<RequestFacts>,
    pool: Pool<Warm>,
    pub(super) learner: Option<Learner>,
}

struct Warm {
    instance: Instance<Bindings>,
    epoch: Option<u64>,
    calls: u32,
}

impl RoutingPolicy {
    /// Makes the first instance, which also tells what facts it wants.
    pub(super) fn new(
        pre: RoutingPolicyPre<HostState>,
        setup: Setup,
        learner: Option<Learner>,
    ) -> Result<Self, Problem> {
        let (first, wanted) = instantiate(&pre, &setup)?;
        let columns = wanted.node.len() + wanted.request.len();
        if columns > limits::FACTS {
            return Err(
                Fault::Invalid(format!("it wants {columns} facts, more than {}", limits::FACTS)).into()
            );
        }
        let (node_columns, request_columns) =
            (NodeFacts::columns(&wanted.node), RequestFacts::columns(&wanted.request));
        let pool = Pool::new();
        pool.seed(first);
        Ok(Self { pre, setup, wanted, node_columns, request_columns, pool, learner })
    }

    /// Names of the facts it reads: of nodes, of the request.
    pub(super) fn facts(&self) -> (&[String], &[String]) {
        (&self.wanted.node, &self.wanted.request)
    }

    pub(super) fn columns(&self) -> (&Columns<NodeFacts>, &Columns<RequestFacts>) {
        (&self.node_columns, &self.request_columns)
    }

    /// `nodes` is row-major, `topology.names` x the facts of nodes.
    pub(super) fn route(
        &self,
        topology: &Topology,
        request: &RouteRequest,
        nodes: &[u32],
        watch_reads: bool,
    ) -> Result<Judged<Decided<Decision>>, Problem> {
        self.pool.with(
            || instantiate(&self.pre, &self.setup).map(|(warm, _)| warm),
            |warm| warm.route(topology, request, nodes, watch_reads),
            |warm| warm.calls >= limits::RECYCLE_AFTER || warm.instance.memory() > limits::RECYCLE_ABOVE,
        )
    }

    /// As [`Self::route`], on an instance of its own.
    pub(super) fn fresh_route(
        &self,
        topology: &Topology,
        request: &RouteRequest,
        nodes: &[u32],
    ) -> Result<Decided<Decision>, Problem> {
        instantiate(&self.pre, &self.setup)?.0.route(topology, request, nodes, false)
    }
}

fn instantiate(pre: &RoutingPolicyPre<HostState>, setup: &Setup) -> Result<(Warm, wit::Wanted), Problem> {
    let mut instance = Instance::new(store(setup, limits::MEMORY), |store| pre.instantiate(store))?;
    instance
        .call(limits::SETUP, |b, s| b.cortex_policy_lifecycle().call_configure(s, &setup.settings))?
        .map_err(Declined::from)?;
    let wanted = instance.call(limits::SETUP, |b, s| b.cortex_policy_router().call_facts(s))?;
    Ok((Warm { instance, epoch: None, calls: 0 }, wanted))
}

impl Warm {
    fn route(
        &mut self,
        topology: &Topology,
        request: &RouteRequest,
        nodes: &[u32],
        watch_reads: bool,
    ) -> Result<Decided<Decision>, Problem> {
        if self.epoch != Some(topology.epoch) {
            let members: Vec<wit::Node<'_>> = topology.names.iter().map(|name| wit::Node { name }).collect();
            self.instance.call(limits::DECIDE, |b, s| {
                b.cortex_policy_router().call_on_topology(s, topology.epoch, &members)
            })?;
            self.epoch = Some(topology.epoch);
        }
        self.calls += 1;
        if watch_reads {
            self.instance.watch_reads();
        }
        let asked = wit::Request {
            model: &request.model,
            tenant: &request.tenant,
            session: request.session,
            seed: request.seed,
            now_ms: request.now_ms,
            facts: &request.facts,
        };
        let decision = self
            .instance
            .call(limits::DECIDE, |b, s| {
                b.cortex_policy_router().call_route(s, topology.epoch, asked, nodes)
            })?
            .map_err(Declined::from)?;
        let reads = if watch_reads { self.instance.take_reads() } else { Vec::new() };
        Ok(Decided { answer: validate(decision, topology.names.len())?, reads })
    }
}

fn validate(decision: wit::Decision, nodes: usize) -> Result<Decision, Fault> {
    match decision {
        wit::Decision::Pick(order) => {
            let (mut few, mut many) = (0u64, Vec::new());
            let seen = match nodes {
                0..=64 => std::slice::from_mut(&mut few),
                _ => {
                    many.resize(nodes.div_ceil(64), 0u64);
                    many.as_mut_slice()
                }
            };
            for &node in &order {
                if usize::from(node) >= nodes {
                    return Err(Fault::Invalid(format!("node {node} of {nodes}")));
                }
                let (word, bit) = (&mut seen[usize::from(node / 64)], 1 << (node % 64));
                if *word & bit != 0 {
                    return Err(Fault::Invalid(format!("node {node} twice")));
                }
                *word |= bit;
            }
            Ok(Decision::Pick(order.into_iter().map(usize::from).collect()))
        }
        // Shorter, and waiting requests would do nothing but ask; longer is a refusal that does not say so.
        wit::Decision::Wait(ms) => {
            Ok(Decision::Wait(std::time::Duration::from_millis(u64::from(ms.clamp(10, 10_000)))))
        }
        wit::Decision::Reject((status @ 400..=599, message)) => Ok(Decision::Reject(status, message)),
        wit::Decision::Reject((status, _)) => Err(Fault::Invalid(format!("status {status}"))),
    }
}
