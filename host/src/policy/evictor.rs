//! Eviction policies: which models make room for another.

use super::bindings::eviction::exports::cortex::policy::evictor as wit;
use super::bindings::eviction::{EvictionPolicy as Bindings, EvictionPolicyPre};
use super::gate::Setup;
use super::instance::{Fault, Instance, Problem, store};
use super::pool::{Judged, Pool};
use super::router::Decided;
use super::state::HostState;
use super::{Declined, limits};
use crate::facts::{Columns, ResidentFacts};

/// A model that must be placed.
#[derive(Debug, Clone)]
pub struct Demand {
    pub model: String,
    pub class: u32,
    /// MiB that are short, by device.
    pub device_mb: Vec<u64>,
    pub waiters: u32,
    pub seed: u64,
    pub now_ms: u64,
}

/// A model that may go: neither busy nor pinned.
#[derive(Debug, Clone)]
pub struct Resident {
    pub model: String,
    /// MiB freed, by device.
    pub device_mb: Vec<u64>,
}

pub(super) struct EvictionPolicy {
    pre: EvictionPolicyPre<HostState>,
    setup: Setup,
    facts: Vec<String>,
    columns: Columns<ResidentFacts>,
    pool: Pool<Instance<Bindings>>,
}

impl EvictionPolicy {
    pub(super) fn new(pre: EvictionPolicyPre<HostState>, setup: Setup) -> Result<Self, Problem> {
        let (first, facts) = instantiate(&pre, &setup)?;
        if facts.len() > limits::FACTS {
            let wanted = facts.len();
            return Err(
                Fault::Invalid(format!("it wants {wanted} facts, more than {}", limits::FACTS)).into()
            );
        }
        let (columns, pool) = (ResidentFacts::columns(&facts), Pool::new());
        pool.seed(first);
        Ok(Self { pre, setup, facts, columns, pool })
    }

    pub(super) fn facts(&self) -> &[String] {
        &self.facts
    }

    pub(super) fn columns(&self) -> &Columns<ResidentFacts> {
        &self.columns
    }

    /// Victims in order, each in range and once, together enough; empty where the policy spares them all.
    pub(super) fn plan(
        &self,
        demand: &Demand,
        residents: &[Resident],
        facts: &[u32],
        watch_reads: bool,
    ) -> Result<Judged<Decided<Vec<usize>>>, Problem> {
        let offered: Vec<wit::Resident<'_>> =
            residents.iter().map(|r| wit::Resident { model: &r.model, device_mb: &r.device_mb }).collect();
        self.pool.with(
            || instantiate(&self.pre, &self.setup).map(|(instance, _)| instance),
            |instance| {
                if watch_reads {
                    instance.watch_reads();
                }
                let asked = wit::Demand {
                    model: &demand.model,
                    class: demand.class,
                    device_mb: &demand.device_mb,
                    waiters: demand.waiters,
                    seed: demand.seed,
                    now_ms: demand.now_ms,
                };
                let victims = instance
                    .call(limits::DECIDE, |b, s| {
                        b.cortex_policy_evictor().call_plan(s, asked, &offered, facts)
                    })?
                    .map_err(Declined::from)?;
                let reads = if watch_reads { instance.take_reads() } else { Vec::new() };
                Ok(Decided { answer: validate(&victims, demand, residents)?, reads })
            },
            |instance| instance.memory() > limits::RECYCLE_ABOVE,
        )
    }
}

fn instantiate(
    pre: &EvictionPolicyPre<HostState>,
    setup: &Setup,
) -> Result<(Instance<Bindings>, Vec<String>), Problem> {
    let mut instance = Instance::new(store(setup, limits::MEMORY), |store| pre.instantiate(store))?;
    instance
        .call(limits::SETUP, |b, s| b.cortex_policy_lifecycle().call_configure(s, &setup.settings))?
        .map_err(Declined::from)?;
    let facts = instance.call(limits::SETUP, |b, s| b.cortex_policy_evictor().call_facts(s))?;
    Ok((instance, facts))
}

fn validate(victims: &[u32], demand: &Demand, residents: &[Resident]) -> Result<Vec<usize>, Fault> {
    let mut order: Vec<usize> = Vec::with_capacity(victims.len());
    for &victim in victims {
        let victim = victim as usize;
        if victim >= residents.len() || order.contains(&victim) {
            return Err(Fault::Invalid(format!("victim {victim} of {}", residents.len())));
        }
        order.push(victim);
    }
    let freed =
        |device: usize| -> u64 { order.iter().filter_map(|&v| residents[v].device_mb.get(device)).sum() };
    let enough = demand.device_mb.iter().enumerate().all(|(device, &mb)| freed(device) >= mb);
    if !order.is_empty() && !enough {
        return Err(Fault::Invalid("its victims do not free enough".into()));
    }
    Ok(order)
}
