//! The gate's own calls: such as requests will make, on fleets of several sizes. A policy that traps,
//! loops or answers nonsense every time is found out here, and so is one whose answers do not repeat.

use super::evictor::{Demand, EvictionPolicy, Resident};
use super::generation::Judge;
use super::instance::{Fault, Problem};
use super::router::{RouteRequest, RoutingPolicy, Topology};
use super::session::{Reply, Session};
use crate::facts::{NodeFacts, RequestFacts, ResidentFacts, state};

/// Fleet sizes to try; the largest is far above most fleets.
const NODES: [usize; 3] = [1, 16, 64];
const ERROR: &str = r#"{"error":{"message":"gate","type":"server_error","code":"gate","param":null}}"#;

pub(super) fn check(judge: &Judge) -> Result<(), Problem> {
    match judge {
        Judge::Routing(policy) => NODES.into_iter().try_for_each(|nodes| routing(policy, nodes)),
        Judge::Eviction(policy) => eviction(policy),
        Judge::Translation(policy) => {
            (0..policy.claims().len() as u32).try_for_each(|claim| speaks(policy.session(claim, 7)?))
        }
        // An upstream's errors are its own: that a session opens and ends is all that can be asked.
        Judge::Upstream(policy) => policy.session(7)?.finish(false).map(drop).or_else(allowed),
    }
}

/// Declining is an answer.
fn allowed(problem: Problem) -> Result<(), Problem> {
    match problem {
        Problem::Declined(_) => Ok(()),
        other => Err(other),
    }
}

/// A fleet in which every second node is loaded and each is a little busier than the one before it.
pub(super) fn fleet(nodes: usize) -> (Topology, Vec<NodeFacts>) {
    let names = (0..nodes).map(|n| format!("node-{n}")).collect();
    let facts = (0..nodes as u32).map(|n| NodeFacts {
        state: Some(if n % 2 == 0 { state::LOADED } else { state::FITS }),
        running: Some(n % 5),
        queued: Some(n % 3),
        capacity: Some(4),
        vram_free_mb: Some(1000 * n),
        ..NodeFacts::default()
    });
    (Topology { epoch: nodes as u64 + 1, names }, facts.collect())
}

fn routing(policy: &RoutingPolicy, nodes: usize) -> Result<(), Problem> {
    let (topology, facts) = fleet(nodes);
    let (node_columns, request_columns) = policy.columns();
    let rows = node_columns.rows(&facts);
    let of_request = RequestFacts { prompt_tokens: Some(100), max_tokens: None, stream: Some(1) };
    let asked = RouteRequest {
        model: "gate".into(),
        tenant: "gate".into(),
        session: Some(1),
        seed: 7,
        now_ms: 1_700_000_000_000,
        facts: request_columns.row(&of_request),
    };
    let mut answers = Vec::new();
    for _ in 0..3 {
        match policy.route(&topology, &asked, &rows, false) {
            // Only a policy that keeps something may answer otherwise the next time, and then it
            // could not be replayed.
            Ok(judged) => answers.push(Some(judged.answer.answer)),
            Err(problem) => {
                allowed(problem)?;
                answers.push(None);
            }
        }
    }
    match answers.windows(2).all(|pair| pair[0] == pair[1]) {
        true => Ok(()),
        false => {
            Err(Fault::Invalid(format!("the same call on {nodes} nodes had answers that differ")).into())
        }
    }
}

fn eviction(policy: &EvictionPolicy) -> Result<(), Problem> {
    for residents in [0, 1, 16] {
        let models: Vec<Resident> = (0..residents)
            .map(|n| Resident { model: format!("model-{n}"), device_mb: vec![1000, 500] })
            .collect();
        let facts = (0..residents).map(|n| ResidentFacts {
            size_mb: Some(1500),
            last_used_s: Some(n),
            class: Some(n % 3),
            ..ResidentFacts::default()
        });
        let rows = policy.columns().rows(&facts.collect::<Vec<_>>());
        let demand = Demand {
            model: "gate".into(),
            class: 100,
            device_mb: vec![1200, 0],
            waiters: 1,
            seed: 7,
            now_ms: 1_700_000_000_000,
        };
        policy.plan(&demand, &models, &rows, false).map(drop).or_else(allowed)?;
    }
    Ok(())
}

/// Every dialect must be able to say that something went wrong, whole and in a stream.
fn speaks(mut session: Session) -> Result<(), Problem> {
    let headers = vec![("content-type".into(), "application/json".into())];
    let reply = session.response(Reply { status: 503, headers, body: ERROR.into() })?;
    if reply.status < 400 {
        return Err(Fault::Invalid(format!("it made status {} of an error", reply.status)).into());
    }
    Ok(())
}
