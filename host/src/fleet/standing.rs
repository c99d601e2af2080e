//! Whether a model may leave a node for another.

use super::load::Why;
use super::{Fleet, Loads, NodeView, find};
use crate::config::{Config, Model};
use neuron_protocol::ModelInfo;
use std::sync::Arc;
use std::time::Duration;

/// A model that no request came to for so long may go for a second copy of another.
const UNWANTED: Duration = Duration::from_secs(60);
/// A fresh model stays for as long as its load took, and never longer than this, where the catalogue is silent.
const LONGEST_RESIDENCY: Duration = Duration::from_secs(30);

/// A resident, in the eyes of a model that wants its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody uses it; for so long.
    Free(Duration),
    /// Requests are with it, or wait for it.
    InUse,
    /// It has not been there for long enough.
    Young,
    /// It stays, whatever else happens.
    Stays,
}

impl Standing {
    /// `info`, one of the view's, as `model` meets it.
    pub(super) fn of(
        loads: &Loads,
        config: &Config,
        view: &NodeView,
        model: &Model,
        info: &ModelInfo,
    ) -> Self {
        if view.node.offer().is_some() {
            return Self::Stays;
        }
        let catalogued = config.catalogue.on_node(&info.id);
        let id = catalogued.map_or(info.id.as_str(), |m| m.id.as_str());
        let pinned = catalogued.is_some_and(|m| m.pinned) || loads.fleet.is_pinned(id);
        let above = class(catalogued) > model.class();
        if pinned || above || !info.can_serve() || catalogued.is_some_and(|m| is_kept(loads, m)) {
            return Self::Stays;
        }
        let usage = view.node.usage(id);
        let least = catalogued.and_then(|m| m.min_residency()).unwrap_or_else(|| {
            usage
                .load_ms()
                .map_or(Duration::ZERO, |ms| Duration::from_millis(ms.into()))
                .min(LONGEST_RESIDENCY)
        });
        if usage.resident_for().is_some_and(|time| time < least) {
            return Self::Young;
        }
        let reported = view.health.models.iter().find(|m| m.id == info.id);
        let in_use = usage.in_flight() > 0
            || loads.desk(id).waiting() > 0
            || reported.is_some_and(|m| m.in_flight + m.queue_depth > 0);
        match in_use {
            true => Self::InUse,
            false => Self::Free(idle(view, info, usage.idle())),
        }
    }

    pub(super) fn is_free_for(&self, why: Why) -> bool {
        match (self, why) {
            (Self::Free(idle), Why::Replica) => *idle >= UNWANTED,
            (Self::Free(_), _) => true,
            _ => false,
        }
    }

    pub(super) fn may_be_drained(&self) -> bool {
        matches!(self, Self::Free(_) | Self::InUse)
    }

    /// Not now, perhaps, but some day.
    pub(super) fn may_go_at_last(&self) -> bool {
        *self != Self::Stays
    }
}

/// The shorter of what this gateway and the node know: another gateway may have used it.
pub(super) fn idle(view: &NodeView, info: &ModelInfo, own: Duration) -> Duration {
    let reported = view.health.models.iter().find(|m| m.id == info.id).and_then(|m| m.idle_ms);
    reported.map_or(own, |ms| own.min(Duration::from_millis(ms)))
}

/// Copies that may be used now.
pub(super) fn copies(loads: &Loads, model: &Model) -> u32 {
    let fleet = loads.fleet.now();
    let has = |view: &&Arc<NodeView>| {
        let is_there = view.reachable() && find(view, model).is_some_and(|found| found.info.can_serve());
        is_there && !view.node.usage(&model.id).is_closed()
    };
    fleet.nodes.iter().filter(has).count() as u32
}

/// There are no more copies than the catalogue wants at least.
fn is_kept(loads: &Loads, model: &Model) -> bool {
    let least = model.replicas.as_ref().map_or(0, |replicas| replicas.min);
    least > 0 && copies(loads, model) <= least
}

/// Pinned models that cannot all be there at once, a sentence for each node where that is so. A model that may be
/// on several nodes is counted on none.
pub fn pinned_too_large(fleet: &Fleet, config: &Config) -> Vec<String> {
    let check = |view: &Arc<NodeView>| {
        let name = &view.node.name;
        let only_here = |m: &&Model| m.pinned && m.pinned_on.len() == 1 && m.allowed_on(name);
        let pinned: Vec<&Model> = config.catalogue.models().filter(only_here).collect();
        let sum = |sum: u64, mb: u64| sum.saturating_add(mb);
        let wanted = pinned.iter().filter_map(|m| m.vram_mb).fold(0, sum);
        let total = view.discovery.devices.iter().map(|device| device.vram_total_mb).fold(0, sum);
        (total > 0 && wanted > total).then(|| {
            let ids: Vec<&str> = pinned.iter().map(|m| m.id.as_str()).collect();
            format!("{} are pinned on {name} and want {wanted} MiB, and it has {total}", ids.join(", "))
        })
    };
    fleet.nodes.iter().filter_map(check).collect()
}

/// A model that the catalogue does not have is of the usual class.
pub(super) fn class(catalogued: Option<&Model>) -> u32 {
    catalogued.map_or_else(|| Model::uncatalogued("").class(), Model::class)
}
