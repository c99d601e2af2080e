//! Where a model is, and where it could be.

use super::index::Names;
use super::usage::ModelUse;
use super::{Conversation, Draining, Fleet, Loads, Node, NodeView, facts};
use crate::config::Model;
use crate::facts::state;
use crate::policy::least_loaded;
use neuron_protocol::{ModelInfo, ModelStatus};
use std::sync::Arc;
use std::time::Duration;

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

/// The node brings it there by itself: it loads it, or says that it will.
pub fn is_coming(view: &NodeView, model: &Model) -> bool {
    use ModelStatus::{Loading, Recovering, Reloading};
    let is_under_way = |info: &ModelInfo| matches!(info.status, Loading | Reloading | Recovering);
    find(view, model).is_some_and(|found| is_under_way(found.info)) || is_preloaded(view, model)
}

/// It is one of those that the daemon loads at start, and has not been yet.
fn is_preloaded(view: &NodeView, model: &Model) -> bool {
    let activation = &view.health.activation;
    let mut ahead = activation.pending.iter().chain(&activation.in_progress).peekable();
    // Hardly ever is there one.
    ahead.peek().is_some() && {
        let node_id = model.node_id();
        ahead.any(|name| *name == node_id || *name == model.id)
    }
}

/// How ready the node is for the model, as `facts::state` numbers it. `catalogued` models alone may be loaded.
pub fn readiness(view: &NodeView, model: &Model, catalogued: bool, loading: bool) -> u32 {
    let names = Names::of(model);
    let usage = view.node.known_usage(names.id, names.id_hash);
    let found = view.find(&names).map(|(at, _)| &view.models[at]);
    ready(view, model, catalogued, loading, found, usage.as_deref())
}

pub(super) fn ready(
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
    if loading || is_preloaded(view, model) {
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
    if let Some(offer) = view.node.offer() {
        return offer.max_concurrent;
    }
    let load = view.health.models.iter().find(|m| m.id == info.id)?;
    // It says at once when it can start more: until then, out of memory for its cache say, whoever waits waits
    // here, where another node may come first. One stays there, so that other gateways do not take it all.
    let is_behind = view.prefixes.is_some() && load.queue_depth > 0;
    let most = if is_behind { 1 } else { load.max_in_flight.min(u64::from(u32::MAX)) as u32 };
    Some(most).filter(|&most| most > 0)
}

pub(super) fn free_mb(view: &NodeView, index: u32) -> u64 {
    view.health.devices.iter().find(|d| d.index == index).map_or(0, |d| d.vram_free_mb)
}

/// When a node that has the model is tried again, where only its failures speak against it; but for those that were `met`.
pub fn back_in(fleet: &Fleet, model: &Model, met: impl Fn(&NodeView) -> bool) -> Option<Duration> {
    let has = |view: &&Arc<NodeView>| {
        let has = find(view, model).is_some_and(|found| found.info.can_serve());
        has && view.reachable() && view.node.draining().is_none() && !met(view)
    };
    fleet.nodes.iter().filter(has).filter_map(|view| view.node.left_alone_for()).min()
}

/// How long to wait yet for a node that went down less than `patience` ago and may serve the model once it is back: daemons
/// are restarted. `is_out`: the request will not be given to it again.
pub fn returns_in(
    fleet: &Fleet,
    model: &Model,
    catalogued: bool,
    patience: Duration,
    is_out: impl Fn(&NodeView) -> bool,
) -> Option<Duration> {
    let may_serve = |view: &&Arc<NodeView>| {
        find(view, model).is_some_and(|found| found.info.can_serve())
            || is_coming(view, model)
            || (catalogued && barred_from_it(view, model).is_none() && is_large_enough(view, model))
    };
    let away = fleet.nodes.iter().filter(|view| view.node.draining().is_none() && !is_out(view));
    away.filter(may_serve).filter_map(|view| view.restarts_for(patience)).max()
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

/// Why the node is not given the model, whatever room it has.
pub(super) fn barred(view: &NodeView, model: &Model) -> Option<String> {
    barred_first(view).map(str::to_owned).or_else(|| barred_from_it(view, model))
}

fn barred_first(view: &NodeView) -> Option<&'static str> {
    match view {
        view if !view.reachable() => Some("is down"),
        view if view.node.draining().is_some() => Some("is being drained"),
        _ => None,
    }
}

fn barred_from_it(view: &NodeView, model: &Model) -> Option<String> {
    match view {
        view if view.node.offer().is_some() => Some("is an upstream that does not have it".to_owned()),
        view if !model.allowed_on(&view.node.name) => Some("is not in its pinned_on".to_owned()),
        view if !view.discovery.harnesses.contains(&model.harness) => {
            Some(format!("has no harness {:?}", model.harness))
        }
        _ => None,
    }
}

/// MiB that each of its devices must have, and how many of the node's have that much.
fn large_devices(view: &NodeView, model: &Model) -> (u64, usize) {
    let wanted = per_device_mb(&view.node, model).max(model.min_device_vram_mb.unwrap_or(0));
    (wanted, view.discovery.devices.iter().filter(|device| device.vram_total_mb >= wanted).count())
}

fn is_large_enough(view: &NodeView, model: &Model) -> bool {
    large_devices(view, model).1 >= model.min_devices as usize
}

fn why_not(view: &NodeView, model: &Model, catalogued: bool) -> String {
    let (wanted, large) = large_devices(view, model);
    let servable = find(view, model).and_then(|found| found.info.servable.as_ref());
    if let Some(barred) = barred_first(view) {
        barred.to_owned()
    } else if let Some(left) = view.node.left_alone_for() {
        format!("kept failing and is tried again in {} s", left.as_secs() + 1)
    } else if let Some(reason) = servable.filter(|s| !s.ok).map(|s| s.reason.as_deref().unwrap_or("unknown"))
    {
        format!("has it and cannot serve it ({reason})")
    } else if !catalogued {
        "does not have it".to_owned()
    } else if let Some(barred) = barred_from_it(view, model) {
        barred
    } else if large < model.min_devices as usize {
        format!("has {large} of {} devices with {wanted} MiB", model.min_devices)
    } else {
        "cannot now".to_owned()
    }
}
