//! Making room: the policy names victims, the gateway makes sure that nothing in use or pinned goes, and
//! that the memory is there afterwards.

use super::hosts::Shift;
use super::load::{Job, Why};
use super::place::{find, free_mb};
use super::plan::Need;
use super::standing::Standing;
use super::usage::Closed;
use super::{LoadFailure, Loads, Node, What, plan, poll, standing};
use crate::config::{Config, Model};
use crate::upstream::UpstreamError;
use http::StatusCode;
use neuron_protocol::{UnloadMode, UnloadRefused, UnloadRequest, feature};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What a node gets to give a model's memory back.
const UNLOAD_LIMIT: Duration = Duration::from_secs(120);
/// Drivers give memory back a little after the call that frees it.
const SETTLE: Duration = Duration::from_secs(5);
const SETTLE_LOOK: Duration = Duration::from_millis(200);
/// How often it is looked whether a drain is still for somebody.
const DRAIN_LOOK: Duration = Duration::from_millis(500);
/// Plans that are made for one load, where a node frees less than it said.
const PLANS: usize = 3;

/// Why a load does not happen.
#[derive(Debug)]
pub(super) enum NotNow {
    /// What speaks against it will pass: others are in use, or fresh.
    Later(LoadFailure),
    /// The node went away. `begun`: over this.
    Gone {
        failure: LoadFailure,
        begun: bool,
    },
    Never(LoadFailure),
}

impl NotNow {
    pub(super) fn failure(self) -> LoadFailure {
        match self {
            Self::Later(failure) | Self::Gone { failure, .. } | Self::Never(failure) => failure,
        }
    }

    /// What follows from an error that is no refusal.
    pub(super) fn over(error: &UpstreamError, failure: LoadFailure) -> Self {
        match error {
            UpstreamError::Connect { .. } => Self::Gone { failure, begun: false },
            UpstreamError::Broken(_) => Self::Gone { failure, begun: true },
            _ => Self::Never(failure),
        }
    }
}

/// Frees what the model needs on each of as many devices of the node as it is spread over. Returns
/// those devices; `None` where nothing is known of what it wants, and the node chooses.
///
/// Whoever calls holds the node's `loading`.
pub(super) async fn make_room(
    loads: &Loads,
    job: &Job,
    node: &Arc<Node>,
    model: &Model,
    need: Need,
) -> Result<Option<Vec<u32>>, NotNow> {
    if need.mb == 0 {
        return Ok(None);
    }
    for _ in 0..PLANS {
        let (plan, drained) = choose(loads, job, node, model, need)?;
        if plan.victims.is_empty() {
            return Ok(Some(plan.devices));
        }
        let config = loads.config.load_full();
        // None of them goes before it is known that all can.
        let gone = close(loads, &config, node, &plan.victims, drained)?;
        drain(&config, job, node, &plan.victims).await?;
        for victim in &plan.victims {
            job.is_at(Some(node), "making room");
            tracing::info!(node = node.name, model = victim, "unloading to make room");
            let why = judged(loads, &config, node, model, (victim, plan.judge.as_deref()), drained);
            unload(loads, node, victim, UnloadMode::IfIdle, None).await?;
            loads.metrics.evictions.with_label_values(&["memory"]).inc();
            loads.chronicle.add(What::Unloaded, config.catalogue.id_of(victim), &node.name, why, None);
        }
        if settles(loads, node, &plan.devices, need.mb).await {
            return Ok(Some(plan.devices));
        }
        tracing::warn!(
            node = node.name,
            model = model.id,
            "it freed less than its figures said; making more room"
        );
        drop(gone);
    }
    let message = format!("node {} does not give back the memory that it says its models take", node.name);
    Err(NotNow::Never(LoadFailure::unavailable("eviction_failed", message)))
}

/// Whose judgement it was that the victim goes, and what spoke for it.
fn judged(
    loads: &Loads,
    config: &Config,
    node: &Arc<Node>,
    model: &Model,
    (victim, judge): (&str, Option<&str>),
    drained: bool,
) -> String {
    let fleet = loads.fleet.now();
    let found = fleet.view(node).and_then(|view| Some((view, view.models.iter().find(|m| m.id == victim)?)));
    let stood = match found.map(|(view, info)| Standing::of(loads, config, view, model, info)) {
        Some(Standing::Free(time)) if !drained => format!("idle for {} s", time.as_secs()),
        _ if drained => "drained, for requests had waited long".to_owned(),
        _ => "idle".to_owned(),
    };
    let class = standing::class(config.catalogue.on_node(victim));
    let judge = judge.map_or_else(|| "the built-in".to_owned(), |policy| format!("the policy {policy}"));
    format!("to make room for {}, by {judge}: {stood}, class {class}", model.id)
}

/// A plan, and whether its victims may have to be drained.
fn choose(
    loads: &Loads,
    job: &Job,
    node: &Arc<Node>,
    model: &Model,
    need: Need,
) -> Result<(plan::Plan, bool), NotNow> {
    let (fleet, config) = (loads.fleet.now(), loads.config.load_full());
    let Some(view) = fleet.view(node) else {
        let message = format!("node {} has left the fleet", node.name);
        return Err(NotNow::Never(LoadFailure::unavailable("node_unavailable", message)));
    };
    let cheapest =
        |may_go: &dyn Fn(&Standing) -> bool| plan::cheapest(loads, &config, view, model, need, may_go);
    let short = match cheapest(&|standing| standing.is_free_for(job.why)) {
        Ok(plan) => return Ok((plan, false)),
        Err(short) => short,
    };
    let urgent = match job.why {
        Why::Demand => job.desk().longest_wait().is_some_and(|wait| wait >= config.eviction_patience),
        Why::Operator => true,
        Why::Kept | Why::Replica => false,
    };
    if urgent && let Ok(plan) = cheapest(&Standing::may_be_drained) {
        return Ok((plan, true));
    }
    match plan::could(&config, loads, view, model, need) {
        true => Err(NotNow::Later(short)),
        false => Err(NotNow::Never(short)),
    }
}

/// Until the returned is dropped no request gets to any of the victims.
fn close(
    loads: &Loads,
    config: &Config,
    node: &Arc<Node>,
    victims: &[String],
    drained: bool,
) -> Result<Vec<Closed>, NotNow> {
    let close = |victim: &String| {
        let id = config.catalogue.id_of(victim);
        let (usage, desk) = (node.usage(id), loads.desk(id));
        let closed = if drained { usage.close(desk) } else { usage.close_idle(desk) };
        closed.ok_or_else(|| in_use(id, node))
    };
    victims.iter().map(close).collect()
}

fn in_use(id: &str, node: &Node) -> NotNow {
    let message = format!("{id} is in use again on node {}", node.name);
    NotNow::Later(LoadFailure::unavailable("eviction_failed", message))
}

/// Returns once nothing runs at the victims, for as long as somebody waits for what takes their place.
async fn drain(config: &Config, job: &Job, node: &Arc<Node>, victims: &[String]) -> Result<(), NotNow> {
    let until = Instant::now() + config.max_wait;
    for victim in victims {
        let id = config.catalogue.id_of(victim);
        let usage = node.usage(id);
        while tokio::time::timeout(DRAIN_LOOK, usage.until_idle()).await.is_err() {
            job.is_at(Some(node), "draining another model");
            if Instant::now() >= until || job.is_for_nobody() {
                return Err(in_use(id, node));
            }
        }
    }
    match job.is_for_nobody() {
        true => Err(in_use(config.catalogue.id_of(&victims[0]), node)),
        false => Ok(()),
    }
}

/// Unloads what an operator names.
pub(super) async fn by_operator(
    loads: &Loads,
    node: &Arc<Node>,
    model: &Model,
    drain: bool,
) -> Result<(), LoadFailure> {
    let (usage, desk) = (node.usage(&model.id), loads.desk(&model.id));
    let closed = if drain { usage.close(desk) } else { usage.close_idle(desk) };
    let in_use = || {
        let message = format!("{} is in use on node {}; --drain waits for that to end", model.id, node.name);
        LoadFailure::unavailable("eviction_failed", message)
    };
    let _closed = closed.ok_or_else(in_use)?;
    // Before the turn: others load there meanwhile.
    usage.until_idle().await;
    let _turn = node.loading.lock().await;
    poll::refresh(loads, node).await;
    let fleet = loads.fleet.now();
    let Some(found) = fleet.view(node).and_then(|view| find(view, model)) else { return Ok(()) };
    let mode = if drain { UnloadMode::Drain } else { UnloadMode::IfIdle };
    let unloaded = take_off(loads, node, &found.info.id, (mode, None), false).await;
    poll::refresh(loads, node).await;
    unloaded.map_err(NotNow::failure)?;
    loads.metrics.evictions.with_label_values(&["operator"]).inc();
    loads.chronicle.add(What::Unloaded, &model.id, &node.name, "as an operator wanted it".into(), None);
    Ok(())
}

/// Takes a model off a node's devices: parked where the node can, else unloaded. Nodes without conditions
/// unload it when what runs there has ended.
pub(super) async fn unload(
    loads: &Loads,
    node: &Arc<Node>,
    name: &str,
    mode: UnloadMode,
    least_idle: Option<Duration>,
) -> Result<(), NotNow> {
    take_off(loads, node, name, (mode, least_idle), true).await
}

/// As [`unload`]; `may_park`: else nothing of it is to be left on the node.
async fn take_off(
    loads: &Loads,
    node: &Arc<Node>,
    name: &str,
    (mode, least_idle): (UnloadMode, Option<Duration>),
    may_park: bool,
) -> Result<(), NotNow> {
    let fleet = loads.fleet.now();
    let Some(view) = fleet.view(node) else { return Ok(()) };
    let info = view.models.iter().find(|info| info.id == name);
    let conditional = view.discovery.has(feature::CONDITIONAL_UNLOAD);
    let request = UnloadRequest {
        model_id: name.to_owned(),
        mode: conditional.then_some(mode),
        min_idle_ms: least_idle
            .filter(|_| conditional)
            .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        generation: info.and_then(|info| info.generation).filter(|_| conditional),
        holder: conditional.then(|| loads.holder.clone()),
    };
    let failure = |why: String| {
        let message = format!("{name} could not be unloaded from node {}: {why}", node.name);
        LoadFailure::unavailable("eviction_failed", message)
    };
    let refused = |body: String| {
        let said = serde_json::from_str::<UnloadRefused>(&body).map_or(body, |r| r.error.message);
        NotNow::Later(failure(said))
    };
    if may_park && view.discovery.has(feature::PARK) && info.is_some_and(|info| info.can_serve()) {
        match loads.hosts.shift(node, Shift::Park, &request, UNLOAD_LIMIT).await {
            Ok(_) => return Ok(()),
            // It is needed: so it would be by an unload.
            Err(UpstreamError::Status { status: StatusCode::CONFLICT, body }) => return Err(refused(body)),
            Err(error) => tracing::info!(node = node.name, model = name, %error, "not parked"),
        }
    }
    match loads.hosts.unload(node, &request, UNLOAD_LIMIT).await {
        Ok(_) => {}
        // Somebody else was faster.
        Err(UpstreamError::Status { status: StatusCode::NOT_FOUND, .. }) => {}
        Err(UpstreamError::Status { status: StatusCode::CONFLICT, body }) => return Err(refused(body)),
        // Whatever it went over, it was not the model that waits for the room.
        Err(UpstreamError::Connect { .. } | UpstreamError::Broken(_)) => {
            let failure = failure("the node went away".to_owned());
            return Err(NotNow::Gone { failure, begun: false });
        }
        Err(error) => return Err(NotNow::Never(failure(error.to_string()))),
    }
    let config = loads.config.load();
    node.usage(config.catalogue.id_of(name)).unloaded();
    Ok(())
}

/// Whether the node's own figures show the room, at once or in a moment.
async fn settles(loads: &Loads, node: &Arc<Node>, devices: &[u32], wanted: u64) -> bool {
    let until = Instant::now() + SETTLE;
    loop {
        poll::refresh(loads, node).await;
        let fleet = loads.fleet.now();
        let has_room =
            fleet.view(node).is_some_and(|view| devices.iter().all(|&d| free_mb(view, d) >= wanted));
        if has_room || Instant::now() >= until {
            return has_room;
        }
        tokio::time::sleep(SETTLE_LOOK).await;
    }
}
