//! The part of a routing policy that is told what came of its decisions.

use super::bindings::learning::exports::cortex::policy::learner as wit;
use super::bindings::learning::{LearningRoutingPolicy as Bindings, LearningRoutingPolicyPre};
use super::gate::Setup;
use super::instance::{Instance, Problem, store};
use super::state::HostState;
use super::{Declined, limits};
use std::sync::{Mutex, PoisonError};

/// How one request went.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed of the routing call that it belongs to.
    pub seed: u64,
    /// The node that served.
    pub node: String,
    /// Milliseconds from dispatch to the first token; `None` where none came.
    pub ttft_ms: Option<u32>,
    pub prompt_tokens: u32,
    pub cached_prompt_tokens: u32,
    pub completion_tokens: u32,
    /// HTTP; 499 where the client left.
    pub status: u16,
}

/// An instance of its own: what it learns reaches those that decide through the policy's store.
pub(super) struct Learner {
    pre: LearningRoutingPolicyPre<HostState>,
    setup: Setup,
    instance: Mutex<Option<Instance<Bindings>>>,
}

impl Learner {
    pub(super) fn new(pre: LearningRoutingPolicyPre<HostState>, setup: Setup) -> Self {
        Self { pre, setup, instance: Mutex::default() }
    }

    /// Off the path of requests. After a fault the next batch meets a fresh instance.
    pub(super) fn learn(&self, outcomes: &[Outcome]) -> Result<(), Problem> {
        let told: Vec<wit::Outcome> = outcomes.iter().map(outcome).collect();
        let mut slot = self.instance.lock().unwrap_or_else(PoisonError::into_inner);
        let mut instance = match slot.take() {
            Some(instance) => instance,
            None => self.instantiate()?,
        };
        instance.call(limits::LEARN, |b, s| b.cortex_policy_learner().call_on_outcomes(s, &told))?;
        if instance.memory() <= limits::RECYCLE_ABOVE {
            *slot = Some(instance);
        }
        Ok(())
    }

    fn instantiate(&self) -> Result<Instance<Bindings>, Problem> {
        let store = store(&self.setup, limits::MEMORY);
        let mut instance = Instance::new(store, |store| self.pre.instantiate(store))?;
        instance
            .call(limits::SETUP, |b, s| b.cortex_policy_lifecycle().call_configure(s, &self.setup.settings))?
            .map_err(Declined::from)?;
        Ok(instance)
    }
}

fn outcome(outcome: &Outcome) -> wit::Outcome {
    wit::Outcome {
        seed: outcome.seed,
        node: outcome.node.clone(),
        ttft_ms: outcome.ttft_ms,
        prompt_tokens: outcome.prompt_tokens,
        cached_prompt_tokens: outcome.cached_prompt_tokens,
        completion_tokens: outcome.completion_tokens,
        status: outcome.status,
    }
}
