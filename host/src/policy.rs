//! The host of policies: WebAssembly components that judge, behind a gate, under limits.
//!
//! Nothing outside this module knows wasmtime or the generated types of the contract.

mod bindings;
mod breaker;
mod builtin;
mod engine;
mod evictor;
mod footprint;
mod gate;
mod generation;
mod golden;
mod instance;
mod latency;
mod learner;
pub mod measure;
mod pool;
mod registry;
mod replay_budget;
mod router;
mod session;
mod shared;
mod state;
mod translator;
mod upload;

pub use breaker::{BreakerState, Faults};
pub use builtin::{least_loaded, least_recently_used};
pub use engine::{EngineError, PolicyEngine};
pub use evictor::{Demand, Resident};
pub use gate::{GateReport, Stage, StageTime, check_file};
pub use generation::{Figures, Generation, Kind};
pub use instance::{Declined, Fault, Problem};
pub use latency::Quantiles;
pub use learner::Outcome;
pub use registry::{PolicyStatus, Refused, Registry, Serving, Sources, Table};
pub use replay_budget::ReplayBudget;
pub use router::{Decided, Decision, RouteRequest, Topology};
pub use session::{Message, Reply, Session};
pub use shared::{KvRead, PolicyCounters};
pub use translator::Claim;
pub use upload::NotTaken;

/// Defaults for everything that a policy may use up; what lies past each is said where it is checked.
pub mod limits {
    use std::time::Duration;

    /// One decision.
    pub const DECIDE: Duration = Duration::from_millis(5);
    /// One batch of events.
    pub const EVENTS: Duration = Duration::from_millis(10);
    /// The most that is added to [`EVENTS`], by [`PER_MIB`], for what a session was given before: some dialects say all of
    /// an answer once more at its end.
    pub const FOR_BEFORE: Duration = Duration::from_millis(100);
    /// A whole request or response, besides [`PER_MIB`].
    pub const MESSAGE: Duration = Duration::from_millis(50);
    /// Added to [`MESSAGE`] for each MiB of body.
    pub const PER_MIB: Duration = Duration::from_millis(40);
    /// Configure and self-test, each.
    pub const SETUP: Duration = Duration::from_millis(250);
    /// Linear memory, in bytes; translators may use four times the largest body more: a ceiling, not a
    /// reservation.
    pub const MEMORY: usize = 16 << 20;
    /// A warm instance that has grown past this is replaced after its call.
    pub const RECYCLE_ABOVE: usize = MEMORY / 4 * 3;
    /// A component's file, in bytes, where `[policies] component_limit_mb` says nothing else.
    pub const COMPONENT: u64 = 4 << 20;
    /// The most that the setting may allow.
    pub const COMPONENT_AT_MOST: u64 = 32 << 20;
    /// A batch of outcomes, off the path of requests.
    pub const LEARN: Duration = Duration::from_millis(50);
    /// Facts that a policy may ask for.
    pub const FACTS: usize = 64;
    /// Endpoints that a dialect may claim.
    pub const ENDPOINTS: usize = 64;
    /// What a dialect may send to keep a client patient, in bytes.
    pub const KEEP_ALIVE: usize = 4 << 10;
    /// Keys and values of a policy's store, in bytes.
    pub const KV: usize = 1 << 20;
    /// A translator may answer this many times its input: a stream of responses says every text as it comes and
    /// up to six times in the events that end it …
    pub const OUTPUT_FACTOR: usize = 8;
    /// … and this many bytes more.
    pub const OUTPUT_SLACK: usize = 64 << 10;
    /// Bodies past this are translated off the reactor.
    pub const INLINE_BODY: usize = 256 << 10;
    /// Sessions open at once; past it a request gets a 503. One with a large request counts for several, by
    /// [`SESSION_BYTES`]: what they hold together is bounded, too.
    pub const TRANSLATED_STREAMS: usize = 10_240;
    /// Of a guest's memory, of which a request takes a few copies.
    pub const SESSION_BYTES: usize = 256 << 10;

    /// How many a session counts for whose request has so many bytes. No request is too large to be alone.
    pub const fn weight(request: usize) -> u32 {
        let weight = 1 + request.saturating_mul(4) / SESSION_BYTES;
        let most = TRANSLATED_STREAMS / 4;
        (if weight < most { weight } else { most }) as u32
    }
    /// Bytes that may be kept in all sessions together so that they could be taken up after a trap.
    pub const REPLAY: usize = 64 << 20;
    /// Calls after which a warm instance is replaced: a leak stays small.
    pub const RECYCLE_AFTER: u32 = 100_000;
}
