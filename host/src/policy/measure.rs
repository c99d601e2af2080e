//! What a policy's calls take on this machine, for authors and for the benchmark.

use super::golden::fleet;
use super::{Demand, Generation, Kind, Problem, Resident, RouteRequest, Topology};
use crate::facts::{RequestFacts, ResidentFacts};
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// Calls of one measurement, after a tenth of them to warm up.
const CALLS: usize = 20_000;
/// A fresh instance takes longer.
const FRESH: usize = 2_000;

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub what: String,
    pub p50_ns: u64,
    pub p99_ns: u64,
}

/// Everything that there is to measure of the policy. Errors where a call fails.
pub fn all(policy: &Arc<Generation>) -> Result<Vec<Row>, Problem> {
    match policy.kind {
        Kind::Routing => {
            let mut rows = Vec::new();
            for nodes in [1, 16, 64] {
                let call = Routing::new(policy, nodes);
                rows.push(timed(format!("route, {nodes} nodes"), CALLS, || call.run(policy))?);
            }
            let call = Routing::new(policy, 16);
            let fresh = || policy.fresh_route(&call.topology, &call.asked, &call.rows);
            rows.push(timed("fresh instance and first route".into(), FRESH, fresh)?);
            Ok(rows)
        }
        Kind::Eviction => eviction(policy),
        Kind::Translation | Kind::Upstream => translation(policy),
    }
}

/// A routing call with everything at hand.
pub struct Routing {
    pub topology: Topology,
    pub asked: RouteRequest,
    /// Row-major, nodes x facts.
    pub rows: Vec<u32>,
}

impl Routing {
    /// On a fleet of so many nodes, every second of them loaded.
    pub fn new(policy: &Generation, nodes: usize) -> Self {
        let (topology, facts) = fleet(nodes);
        let (node_columns, request_columns) = policy.routing_columns();
        let rows = node_columns.rows(&facts);
        let of_request = RequestFacts { prompt_tokens: Some(900), max_tokens: Some(256), stream: Some(1) };
        let asked = RouteRequest {
            model: "meta-llama/Llama-3.1-8B-Instruct".into(),
            tenant: "team-a".into(),
            session: Some(0x5eed_5eed_5eed_5eed),
            seed: 7,
            now_ms: 1_700_000_000_000,
            facts: request_columns.row(&of_request),
        };
        Self { topology, asked, rows }
    }

    pub fn run(&self, policy: &Generation) -> Result<(), Problem> {
        policy.route(&self.topology, &self.asked, &self.rows, false).map(drop)
    }
}

fn eviction(policy: &Generation) -> Result<Vec<Row>, Problem> {
    let residents: Vec<Resident> =
        (0..8).map(|n| Resident { model: format!("org/model-{n}"), device_mb: vec![8000, 0] }).collect();
    let fact = |n: u32| ResidentFacts {
        size_mb: Some(8000),
        last_used_s: Some(60 * n),
        class: Some(100),
        ..ResidentFacts::default()
    };
    let facts: Vec<ResidentFacts> = (0..8).map(fact).collect();
    let rows = policy.eviction_columns().rows(&facts);
    let demand = Demand {
        model: "org/new".into(),
        class: 100,
        device_mb: vec![12_000, 0],
        waiters: 1,
        seed: 7,
        now_ms: 1_700_000_000_000,
    };
    let plan = || policy.plan(&demand, &residents, &rows, false).map(drop);
    Ok(vec![timed("plan, 8 residents".into(), CALLS, plan)?])
}

/// An event of 200 bytes, as a node streams them.
pub const EVENT: &str = concat!(
    r#"data: {"id":"chatcmpl-0123456789abcdef01234567","object":"chat.completion.chunk","created":1700000000,"#,
    r#""model":"smollm2","choices":[{"index":0,"delta":{"content":" capital"},"finish_reason":null}]}"#,
    "\n\n"
);

fn translation(policy: &Arc<Generation>) -> Result<Vec<Row>, Problem> {
    let session = timed("session".into(), FRESH, || policy.session(0, 7).map(drop))?;
    let fresh = || policy.session(0, 7)?.events(EVENT.as_bytes()).map(drop);
    let first = timed("session and first event".into(), FRESH, fresh)?;
    let mut one = policy.session(0, 7)?;
    let event =
        timed(format!("event of {} bytes", EVENT.len()), CALLS, || one.events(EVENT.as_bytes()).map(drop))?;
    Ok(vec![session, first, event])
}

/// Each call by itself, so that its quantiles are real ones.
pub fn timed(
    what: String,
    calls: usize,
    mut call: impl FnMut() -> Result<(), Problem>,
) -> Result<Row, Problem> {
    for _ in 0..calls / 10 {
        call()?;
    }
    let mut nanos = Vec::with_capacity(calls);
    for _ in 0..calls {
        let started = Instant::now();
        call()?;
        nanos.push(started.elapsed().as_nanos() as u64);
    }
    nanos.sort_unstable();
    let at = |permille: usize| nanos[(calls - 1) * permille / 1000];
    Ok(Row { what, p50_ns: at(500), p99_ns: at(990) })
}
