//! Facts in, an ordered preference of nodes out.

use super::acquire::Work;
use super::met::Met;
use super::now_ms;
use super::story::Considered;
use crate::decide::{Arm, Asked};
use crate::facts::{NodeFacts, RequestFacts, state};
use crate::fleet::{Fleet, NodeView, Routed, back_in, facts, why_nobody};
use crate::policy::{self, Decision, RouteRequest};
use crate::refusal::Refusal;
use http::StatusCode;
use neuron_protocol::prefix::PrefixChain;
use std::sync::Arc;
use std::time::Duration;

/// When a client may try again that met no node.
const RETRY: Duration = Duration::from_secs(5);
/// Requests wait for a node that kept failing and is to be tried again so soon, where there is no other.
const BRIDGED: Duration = Duration::from_secs(4);

/// `met`: nodes that have failed the request. Asks the routing policy, or the built-in where there is none or it fails; says whose decision it was.
pub(super) fn route(work: &Work, met: &[Met]) -> Result<(Routed, Arm, Option<Considered>), Refusal> {
    let (fleet, config) = (work.gateway.fleet.now(), work.gateway.config.load());
    if !fleet.nodes.iter().any(|view| view.reachable()) {
        if let Some(time) = work.returns_in(&fleet, met) {
            return Ok((Routed::Wait(time), Arm::default(), None));
        }
        let message = if fleet.nodes.is_empty() { "no neuron is configured" } else { "no neuron is up" };
        return Err(Refusal::unavailable("no_node", message, RETRY));
    }
    let conversation = work.asked.conversation(&work.tenant);
    let nodes = facts(&fleet, &work.target.model, work.target.catalogued, &work.gateway.loads, &conversation);
    let (decision, arm) = work.gateway.decider.route(&config, asked(work, &fleet, &nodes));
    // A node that has it may be back in a moment: neither an error nor a load elsewhere is sooner.
    let is_near = |facts: &NodeFacts| facts.state.is_some_and(|state| state >= state::LOADING);
    if !nodes.iter().any(is_near)
        && let Some(time) = back_in(&fleet, &work.target.model, |view| met.iter().any(|met| met.is(view)))
            .filter(|time| *time <= BRIDGED)
    {
        return Ok((Routed::Wait(time), arm, None));
    }
    if !nodes.iter().any(NodeFacts::is_able) && !matches!(decision, Some(Decision::Wait(_))) {
        if let Some(time) = work.returns_in(&fleet, met) {
            return Ok((Routed::Wait(time), arm, None));
        }
        let message = why_nobody(&fleet, &work.target.model, work.target.catalogued);
        return Err(Refusal::unavailable("no_node", message, RETRY));
    }
    let by = match (&decision, arm, &config.canary) {
        (None, ..) => "built-in",
        (_, Arm::Canary, Some(canary)) => canary.policy.as_str(),
        _ => config.routing_policy.as_str(),
    }
    .to_owned();
    let order = match decision {
        Some(Decision::Pick(order)) => order,
        Some(Decision::Wait(time)) => return Ok((Routed::Wait(time), arm, None)),
        Some(Decision::Reject(status, message)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            let retry = (status.is_server_error() || status.as_u16() == 429).then_some(RETRY);
            return Err(Refusal { retry_after: retry, ..Refusal::new(status, "no_node", message) });
        }
        None => policy::least_loaded(&nodes),
    };
    // A policy may prefer a node that cannot serve; the host never goes there.
    let order: Vec<usize> = order.into_iter().filter(|&i| nodes[i].is_able()).collect();
    if order.is_empty() {
        let message = format!("no neuron that is up can serve {}", work.target.model.id);
        return Err(Refusal::unavailable("no_node", message, RETRY));
    }
    let views: Vec<Arc<NodeView>> = order.iter().map(|&i| fleet.nodes[i].clone()).collect();
    let considered = Considered { by, topology: fleet.topology.clone(), facts: nodes, order };
    Ok((Routed::Nodes(views), arm, Some(considered)))
}

fn asked<'a>(work: &Work, fleet: &'a Fleet, nodes: &'a [NodeFacts]) -> Asked<'a> {
    let request = RouteRequest {
        model: work.target.model.id.clone(),
        tenant: work.tenant.clone(),
        session: session(work),
        seed: work.seed,
        now_ms: now_ms(),
        facts: Vec::new(),
    };
    let of_request = RequestFacts {
        prompt_tokens: Some((work.asked.body.len() / 4).min(u32::MAX as usize - 1) as u32),
        max_tokens: work.asked.max_tokens,
        stream: Some(u32::from(work.asked.stream)),
    };
    Asked { topology: &fleet.topology, nodes, request, of_request }
}

/// The user that the client names, else the conversation's opening, salted with tenant and model.
fn session(work: &Work) -> Option<u64> {
    let salted = PrefixChain::new(&work.tenant, &work.target.model.id, "");
    let session = &work.asked.session;
    match &session.user {
        Some(user) => Some(salted.then(user.as_bytes()).value()),
        None if session.opening.is_empty() => None,
        None => Some(session.opening.iter().fold(salted, |chain, part| chain.then_json(part)).value()),
    }
}
