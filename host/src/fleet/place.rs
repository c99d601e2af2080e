//! Where a model is, and where it could be.

use super::{Conversation, Fleet, Loads, NodeView};
use crate::config::Model;
use crate::facts::{NodeFacts, state};
use neuron_protocol::{ModelInfo, ModelStatus};

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
    if !view.reachable() {
        return state::CANNOT;
    }
    match find(view, model).map(|found| found.info) {
        Some(info) if info.can_serve() => return state::LOADED,
        Some(ModelInfo { status: ModelStatus::Loaded | ModelStatus::Unknown, .. }) => return state::CANNOT,
        Some(ModelInfo {
            status: ModelStatus::Loading | ModelStatus::Reloading | ModelStatus::Recovering,
            ..
        }) => {
            return state::LOADING;
        }
        Some(ModelInfo { status: ModelStatus::Unloaded, .. }) | None => {}
    }
    if loading {
        return state::LOADING;
    }
    if !catalogued || !model.allowed_on(&view.node.name) || !view.discovery.harnesses.contains(&model.harness)
    {
        return state::CANNOT;
    }
    fit(view, model)
}

fn fit(view: &NodeView, model: &Model) -> u32 {
    let wanted = per_device_mb(model);
    let count = |enough: &dyn Fn(u32) -> bool| {
        view.discovery.devices.iter().filter(|device| enough(device.index)).count()
    };
    let total =
        |index: u32| view.discovery.devices.iter().find(|d| d.index == index).map_or(0, |d| d.vram_total_mb);
    let large_enough = |index: u32| total(index) >= wanted.max(model.min_device_vram_mb.unwrap_or(0));
    let needed = model.min_devices as usize;
    if count(&|index| large_enough(index) && free_mb(view, index) >= wanted) >= needed {
        state::FITS
    } else if count(&large_enough) >= needed {
        state::FITS_AFTER_EVICTION
    } else {
        state::CANNOT
    }
}

/// MiB on each of its devices; 0 where the catalogue does not say, and the node decides.
pub(super) fn per_device_mb(model: &Model) -> u64 {
    model.vram_mb.unwrap_or(0).div_ceil(u64::from(model.min_devices.max(1)))
}

pub(super) fn free_mb(view: &NodeView, index: u32) -> u64 {
    view.health.devices.iter().find(|d| d.index == index).map_or(0, |d| d.vram_free_mb)
}

/// The facts of every node for a model, in the order of the topology.
pub fn facts(
    fleet: &Fleet,
    model: &Model,
    catalogued: bool,
    loads: &Loads,
    conversation: &Conversation<'_>,
) -> Vec<NodeFacts> {
    let of_node = |view: &std::sync::Arc<NodeView>| {
        let loading = loads.running(&view.node.name, &model.id);
        let usage = view.node.usage(&model.id);
        let found = find(view, model);
        let cached =
            |prefixes| found.as_ref().map_or(0, |found| conversation.cached(prefixes, &found.info.id));
        let load = found.as_ref().and_then(|found| view.health.models.iter().find(|m| m.id == found.info.id));
        let small = |n: u64| n.min(u64::from(u32::MAX - 1)) as u32;
        NodeFacts {
            state: Some(readiness(view, model, catalogued, loading)),
            running: Some(usage.in_flight().max(load.map_or(0, |l| small(l.in_flight)))),
            queued: load.map(|l| small(l.queue_depth)),
            capacity: load.map(|l| small(l.max_in_flight)).filter(|&n| n > 0),
            vram_free_mb: view.health.devices.iter().map(|d| small(d.vram_free_mb)).max(),
            decode_tok_s: load.map(|l| l.tok_s_decode as u32).filter(|&n| n > 0),
            prefill_tok_s: load.map(|l| l.tok_s_prefill as u32).filter(|&n| n > 0),
            load_ms: usage.load_ms(),
            prefix_tokens: view.prefixes.as_ref().map(cached),
        }
    };
    fleet.nodes.iter().map(of_node).collect()
}
