//! Where a model is, and where it could be.

use super::index::Names;
use super::usage::ModelUse;
use super::{Conversation, Draining, Fleet, Loads, Node, NodeView};
use crate::config::Model;
use crate::facts::{NodeFacts, state};
use crate::policy::least_loaded;
use neuron_protocol::{ModelInfo, ModelStatus};
use std::sync::Arc;

/// A model on a node, under the name that the node has for it.
pub struct NodeModel<'a> {
    pub info: &'a ModelInfo,
}

/// The model on that node, whatever its state. Nodes may call it by id or by source and id.
pub fn find<'a>(view: &'a NodeView, model: &Model) -> Option<NodeModel<'a>> {
    let node_id = model.node_id();
    let found = view.models.iter().find(|info| info.id == node_id || info.id == model.id);
    found.map(|info| NodeModel { info })
}

/// How ready the node is for the model, as `facts::state` numbers it. `catalogued` models alone may be loaded.
pub fn readiness(view: &NodeView, model: &Model, catalogued: bool, loading: bool) -> u32 {
    let names = Names::of(model);
    let usage = view.node.known_usage(names.id, names.id_hash);
    let found = view.find(&names).map(|(info, _)| info);
    ready(view, model, catalogued, loading, found, usage.as_deref())
}

fn ready(
    view: &NodeView,
    model: &Model,
    catalogued: bool,
    loading: bool,
    found: Option<&ModelInfo>,
    usage: Option<&ModelUse>,
) -> u32 {
    use ModelStatus::{Loaded, Loading, Parked, Recovering, Reloading, Unknown, Unloaded};
    if !view.reachable() || view.node.draining() == Some(Draining::Operator) {
        return state::CANNOT;
    }
    // In a moment it takes requests again.
    if view.node.draining() == Some(Draining::Defrag) && catalogued && model.allowed_on(&view.node.name) {
        return state::LOADING;
    }
    match found {
        // It is on its way out, and may be wanted back.
        Some(info) if is_leaving(info) || usage.is_some_and(ModelUse::is_closed) => return state::LOADING,
        Some(info) if info.can_serve() => return state::LOADED,
        Some(ModelInfo { status: Loaded | Unknown, .. }) => return state::CANNOT,
        Some(ModelInfo { status: Loading | Reloading | Recovering, .. }) => return state::LOADING,
        Some(ModelInfo { status: Parked, .. }) if catalogued => return state::PARKED,
        Some(ModelInfo { status: Unloaded | Parked, .. }) | None => {}
    }
    if loading {
        return state::LOADING;
    }
    if !catalogued || !model.allowed_on(&view.node.name) || !view.discovery.harnesses.contains(&model.harness)
    {
        return state::CANNOT;
    }
    fit(view, model, usage)
}

/// The node unloads it.
fn is_leaving(info: &ModelInfo) -> bool {
    let reason = info.servable.as_ref().filter(|s| !s.ok).and_then(|s| s.reason.as_deref());
    info.status == ModelStatus::Loaded && reason == Some("unloading")
}

fn fit(view: &NodeView, model: &Model, usage: Option<&ModelUse>) -> u32 {
    let wanted = each_mb(model, usage.and_then(ModelUse::measured_mb));
    let (needed, least) = (model.min_devices as usize, wanted.max(model.min_device_vram_mb.unwrap_or(0)));
    let large_enough = view.discovery.devices.iter().filter(|device| device.vram_total_mb >= least);
    let (mut able, mut free) = (0, 0);
    for device in large_enough {
        able += 1;
        free += usize::from(free_mb(view, device.index) >= wanted);
    }
    match (free >= needed, able >= needed) {
        (true, _) => state::FITS,
        (_, true) => state::FITS_AFTER_EVICTION,
        _ => state::CANNOT,
    }
}

/// MiB on each of its devices: what it took on that node the last time, or what the catalogue says, the smaller of
/// the two, since a cache takes what there is. 0 where neither is known, and the node decides; it also says
/// where the figure was too small.
pub(super) fn per_device_mb(node: &Node, model: &Model) -> u64 {
    each_mb(model, node.usage(&model.id).measured_mb())
}

fn each_mb(model: &Model, measured: Option<u64>) -> u64 {
    let mb = [measured, model.vram_mb].into_iter().flatten().min();
    mb.unwrap_or(0).div_ceil(u64::from(model.min_devices.max(1)))
}

/// Nodes that could have the model and have it not, the readiest first.
pub(super) fn candidates(fleet: &Fleet, model: &Model, loads: &Loads) -> Vec<Arc<Node>> {
    let facts = facts(fleet, model, true, loads, &Conversation::default());
    let order = least_loaded(&facts).into_iter();
    order.filter(|&i| facts[i].state < Some(state::LOADED)).map(|i| fleet.nodes[i].node.clone()).collect()
}

/// Requests of this gateway's that the node runs at once; `None` where it does not say.
pub(super) fn capacity(view: &NodeView, info: &ModelInfo) -> Option<u32> {
    let load = view.health.models.iter().find(|m| m.id == info.id)?;
    Some(load.max_in_flight.min(u64::from(u32::MAX)) as u32).filter(|&most| most > 0)
}

pub(super) fn free_mb(view: &NodeView, index: u32) -> u64 {
    view.health.devices.iter().find(|d| d.index == index).map_or(0, |d| d.vram_free_mb)
}

/// Tokens of the conversation's beginning in the node's cache; `None` where nothing is known of it. `model`: the
/// node's id.
pub fn cached(view: &NodeView, model: &str, conversation: &Conversation<'_>) -> Option<u32> {
    view.prefixes.as_ref().map(|prefixes| conversation.cached(prefixes, model))
}

/// Nodes that are named in a refusal, at most.
const NAMED: usize = 5;

/// Why no node can serve the model, for people.
pub fn why_nobody(fleet: &Fleet, model: &Model, catalogued: bool) -> String {
    let why = |view: &Arc<NodeView>| format!("{} {}", view.node.name, why_not(view, model, catalogued));
    let mut reasons: Vec<String> = fleet.nodes.iter().take(NAMED).map(why).collect();
    if fleet.nodes.len() > NAMED {
        reasons.push(format!("and {} more", fleet.nodes.len() - NAMED));
    }
    format!("no neuron can serve {}: {}", model.id, reasons.join("; "))
}

fn why_not(view: &NodeView, model: &Model, catalogued: bool) -> String {
    let wanted = per_device_mb(&view.node, model).max(model.min_device_vram_mb.unwrap_or(0));
    let large = view.discovery.devices.iter().filter(|device| device.vram_total_mb >= wanted).count();
    let servable = find(view, model).and_then(|found| found.info.servable.as_ref());
    if !view.reachable() {
        "is down".to_owned()
    } else if view.node.draining().is_some() {
        "is being drained".to_owned()
    } else if let Some(reason) = servable.filter(|s| !s.ok).map(|s| s.reason.as_deref().unwrap_or("unknown"))
    {
        format!("has it and cannot serve it ({reason})")
    } else if !catalogued {
        "does not have it".to_owned()
    } else if !model.allowed_on(&view.node.name) {
        "is not in its pinned_on".to_owned()
    } else if !view.discovery.harnesses.contains(&model.harness) {
        format!("has no harness {:?}", model.harness)
    } else if large < model.min_devices as usize {
        format!("has {large} of {} devices with {wanted} MiB", model.min_devices)
    } else {
        "cannot now".to_owned()
    }
}

/// The facts of every node for a model, in the order of the topology.
pub fn facts(
    fleet: &Fleet,
    model: &Model,
    catalogued: bool,
    loads: &Loads,
    conversation: &Conversation<'_>,
) -> Vec<NodeFacts> {
    let (names, job) = (Names::of(model), loads.job(&model.id));
    let small = |n: u64| n.min(u64::from(u32::MAX - 1)) as u32;
    let of_node = |view: &Arc<NodeView>| {
        let loading = job.as_ref().is_some_and(|job| job.is_on(&view.node));
        let usage = view.node.known_usage(names.id, names.id_hash);
        let usage = usage.as_deref();
        let found = view.find(&names);
        let (info, load) = (found.map(|(info, _)| info), found.and_then(|(_, load)| load));
        let cached = |prefixes| info.map_or(0, |info| conversation.cached(prefixes, &info.id));
        let running = usage.map_or(0, ModelUse::in_flight);
        NodeFacts {
            state: Some(ready(view, model, catalogued, loading, info, usage)),
            running: Some(running.max(load.map_or(0, |l| small(l.in_flight)))),
            queued: load.map(|l| small(l.queue_depth)),
            capacity: load.map(|l| small(l.max_in_flight)).filter(|&n| n > 0),
            vram_free_mb: view.health.devices.iter().map(|d| small(d.vram_free_mb)).max(),
            decode_tok_s: load.map(|l| l.tok_s_decode as u32).filter(|&n| n > 0),
            prefill_tok_s: load.map(|l| l.tok_s_prefill as u32).filter(|&n| n > 0),
            load_ms: usage.and_then(ModelUse::load_ms),
            prefix_tokens: view.prefixes.as_ref().map(cached),
        }
    };
    fleet.nodes.iter().map(of_node).collect()
}
