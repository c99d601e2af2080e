//! Translation policies: those of clients' dialects, and those of upstreams'.

use super::bindings::translation::TranslationPolicyPre;
use super::bindings::upstream::UpstreamPolicyPre;
use super::gate::Setup;
use super::instance::{Fault, Instance, Problem, store};
use super::session::{Guest, Session};
use super::state::HostState;
use super::{Declined, limits};

/// A request that a dialect serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub method: String,
    /// With `{name}` for any one segment.
    pub path: String,
    pub header: Option<String>,
}

/// A client's dialect.
pub(super) struct TranslationPolicy {
    pre: TranslationPolicyPre<HostState>,
    setup: Setup,
    claims: Vec<Claim>,
}

impl TranslationPolicy {
    pub(super) fn new(pre: TranslationPolicyPre<HostState>, setup: Setup) -> Result<Self, Problem> {
        let store = store(&setup, setup.engine.translator_memory);
        let mut first = Instance::new(store, |store| pre.instantiate(store))?;
        first
            .call(limits::SETUP, |b, s| b.cortex_policy_lifecycle().call_configure(s, &setup.settings))?
            .map_err(Declined::from)?;
        let endpoints = first.call(limits::SETUP, |b, s| b.cortex_policy_translator().call_endpoints(s))?;
        if endpoints.is_empty() || endpoints.len() > limits::ENDPOINTS {
            let given = endpoints.len();
            return Err(Fault::Invalid(format!("{given} endpoints, not 1 to {}", limits::ENDPOINTS)).into());
        }
        let claim = |e: super::bindings::translation::exports::cortex::policy::translator::Endpoint| Claim {
            method: e.method,
            path: e.path,
            header: e.header,
        };
        let claims = endpoints.into_iter().map(claim).collect();
        Ok(Self { pre, setup, claims })
    }

    pub(super) fn claims(&self) -> &[Claim] {
        &self.claims
    }

    pub(super) fn session(&self, endpoint: u32, seed: u64) -> Result<Session, Problem> {
        let instance = instance(&self.setup, |store| self.pre.instantiate(store).map(Guest::Translator))?;
        Session::new(instance, endpoint, seed)
    }
}

/// An upstream's dialect.
pub(super) struct UpstreamPolicy {
    pre: UpstreamPolicyPre<HostState>,
    setup: Setup,
}

impl UpstreamPolicy {
    pub(super) fn new(pre: UpstreamPolicyPre<HostState>, setup: Setup) -> Self {
        Self { pre, setup }
    }

    pub(super) fn session(&self, seed: u64) -> Result<Session, Problem> {
        let instance = instance(&self.setup, |store| self.pre.instantiate(store).map(Guest::Upstream))?;
        Session::new(instance, 0, seed)
    }
}

/// A configured instance.
fn instance(
    setup: &Setup,
    instantiate: impl FnOnce(&mut wasmtime::Store<HostState>) -> wasmtime::Result<Guest>,
) -> Result<Instance<Guest>, Problem> {
    let mut instance = Instance::new(store(setup, setup.engine.translator_memory), instantiate)?;
    instance.call(limits::SETUP, |b, s| b.configure(s, &setup.settings))?.map_err(Declined::from)?;
    Ok(instance)
}
