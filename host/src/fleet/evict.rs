//! Making room: the policy names victims, the gateway makes sure that nothing busy or pinned goes.

use super::{LoadFailure, Loads, Node, NodeView, plan, poll};
use crate::config::{Config, Model};
use http::StatusCode;
use neuron_protocol::{ModelInfo, UnloadRequest, UnloadResponse};
use std::sync::Arc;
use std::time::Duration;

/// What a node gets to give a model's memory back.
const UNLOAD_LIMIT: Duration = Duration::from_secs(120);

/// Frees `wanted` MiB for the model on each of as many devices of the node as it is spread over. Returns
/// those devices; `None` where nothing is known of what it wants, and the node chooses.
///
/// Whoever calls holds the node's `loading`.
pub(super) async fn make_room(
    loads: &Loads,
    node: &Arc<Node>,
    model: &Model,
    wanted: u64,
) -> Result<Option<Vec<u32>>, LoadFailure> {
    let fleet = loads.fleet.now();
    let Some(view) = fleet.view(node).filter(|_| wanted > 0) else { return Ok(None) };
    let config = loads.config.load_full();
    let plan = plan::cheapest(loads, &config, view, model, wanted)?;
    for victim in &plan.victims {
        unload(loads, &config, node, model, victim).await?;
    }
    if !plan.victims.is_empty() {
        poll::refresh(loads, node).await;
    }
    Ok(Some(plan.devices))
}

/// Whether a resident may make room for the model: neither pinned, nor of a higher class, nor busy as far
/// as the gateway and the node know.
pub(super) fn may_go(config: &Config, view: &NodeView, model: &Model, info: &ModelInfo) -> bool {
    let catalogued = config.catalogue.on_node(&info.id);
    let pinned = catalogued.is_some_and(|m| m.pinned);
    let reported = view.health.models.iter().find(|m| m.id == info.id);
    let busy = view.node.usage(config.catalogue.id_of(&info.id)).in_flight() > 0
        || reported.is_some_and(|m| m.in_flight + m.queue_depth > 0);
    info.can_serve() && !pinned && !busy && class(catalogued) <= model.class()
}

/// A model that the catalogue does not have is of the usual class.
pub(super) fn class(catalogued: Option<&Model>) -> u32 {
    catalogued.map_or_else(|| Model::uncatalogued("").class(), Model::class)
}

async fn unload(
    loads: &Loads,
    config: &Config,
    node: &Arc<Node>,
    model: &Model,
    id: &str,
) -> Result<(), LoadFailure> {
    // A request may have come since the plan was made.
    let fleet = loads.fleet.now();
    let still = fleet.view(node).and_then(|view| {
        let info = view.models.iter().find(|m| m.id == id)?;
        Some(may_go(config, view, model, info))
    });
    let failed = |why: String| LoadFailure {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: "eviction_failed".into(),
        message: format!("{id} could not be unloaded from node {}: {why}", node.name),
        elsewhere: true,
    };
    if still != Some(true) {
        return Err(failed("it is in use again".into()));
    }
    tracing::info!(node = node.name, model = id, "unloading to make room");
    let request = UnloadRequest { model_id: id.to_owned() };
    let answer: Result<UnloadResponse, _> =
        loads.upstream.post(&node.peer, "/models/unload", &request, UNLOAD_LIMIT).await;
    answer.map_err(|e| failed(e.to_string()))?;
    loads.metrics.evictions.with_label_values(&["memory"]).inc();
    Ok(())
}
