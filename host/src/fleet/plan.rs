//! Which devices a model goes to and who leaves them for it: the policy judges each choice, the host
//! takes the cheapest.

use super::place::free_mb;
use super::standing::{Standing, class, idle};
use super::{LoadFailure, Loads, NodeView};
use crate::config::{Config, Model};
use crate::facts::ResidentFacts;
use crate::policy::{Demand, Resident};
use crate::request::now_ms;
use neuron_protocol::ModelInfo;

/// Choices of devices that are tried, the emptiest first: as many as eight devices have for a model on
/// four. Further ones are passed over.
const CHOICES: usize = 70;

/// What a model wants of each of its devices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    /// MiB free.
    pub(super) mb: u64,
    /// MiB that have to go at least, whatever the figures say: the node has refused it for want of them.
    pub(super) at_least: u64,
}

impl Need {
    pub(super) fn of(mb: u64) -> Self {
        Self { mb, at_least: 0 }
    }
}

pub(super) struct Plan {
    pub(super) devices: Vec<u32>,
    /// Models to unload, in order, as the node knows them.
    pub(super) victims: Vec<String>,
    /// The policy that named them; `None`: the built-in, or there are none.
    pub(super) judge: Option<String>,
}

/// The plan that unloads the fewest MiB, of equal ones the fewest models, among those that `may_go`.
pub(super) fn cheapest(
    loads: &Loads,
    config: &Config,
    view: &NodeView,
    model: &Model,
    need: Need,
    may_go: &dyn Fn(&Standing) -> bool,
) -> Result<Plan, LoadFailure> {
    let movable = movable(loads, config, view, model, may_go);
    let residents: Vec<Resident> = movable.iter().map(|info| resident(config, view, info)).collect();
    let facts: Vec<ResidentFacts> = movable.iter().map(|info| resident_facts(config, view, info)).collect();
    let mut best: Option<((u64, usize), Plan)> = None;
    let mut least_short = u64::MAX;
    for devices in feasible(view, model, need.mb) {
        let short = short(view, &devices, need);
        let missing = short.iter().fold(0u64, |sum, mb| sum.saturating_add(*mb));
        if missing == 0 {
            return Ok(Plan { devices, victims: Vec::new(), judge: None });
        }
        least_short = least_short.min(missing);
        let demand = Demand {
            model: model.id.clone(),
            class: model.class(),
            device_mb: short,
            waiters: loads.desk(&model.id).waiting().min(u32::MAX as usize) as u32,
            seed: crate::request::seed(),
            now_ms: now_ms(),
        };
        let (chosen, judge) = loads.decider.plan(config, &demand, &residents, &facts);
        let of_chosen = chosen.iter().flat_map(|&v| &residents[v].device_mb);
        let unloaded = of_chosen.fold(0u64, |sum, mb| sum.saturating_add(*mb));
        let cost = (unloaded, chosen.len());
        if !chosen.is_empty() && best.as_ref().is_none_or(|(least, _)| cost < *least) {
            let victims = chosen.into_iter().map(|v| movable[v].id.clone()).collect();
            best = Some((cost, Plan { devices, victims, judge }));
        }
    }
    let node = &view.node.name;
    let message = match least_short {
        u64::MAX => format!("{} wants {} MiB on a device, more than node {node} has", model.id, need.mb),
        mb => format!(
            "{} is short of {mb} MiB on node {node}, and no idle model may make room for it",
            model.id
        ),
    };
    best.map(|(_, plan)| plan).ok_or_else(|| LoadFailure::unavailable("insufficient_vram", message))
}

/// Whether there would be room if everything went that may go at last.
pub(super) fn could(config: &Config, loads: &Loads, view: &NodeView, model: &Model, need: Need) -> bool {
    let residents: Vec<Resident> = movable(loads, config, view, model, &Standing::may_go_at_last)
        .iter()
        .map(|info| resident(config, view, info))
        .collect();
    feasible(view, model, need.mb).iter().any(|devices| {
        let short = short(view, devices, need);
        let enough = |(device, missing): (usize, &u64)| {
            // What a node says of itself may be any number.
            residents.iter().fold(0u64, |sum, resident| sum.saturating_add(resident.device_mb[device]))
                >= *missing
        };
        short.iter().enumerate().all(enough)
    })
}

fn movable<'a>(
    loads: &Loads,
    config: &Config,
    view: &'a NodeView,
    model: &Model,
    may_go: &dyn Fn(&Standing) -> bool,
) -> Vec<&'a ModelInfo> {
    let goes = |info: &&ModelInfo| may_go(&Standing::of(loads, config, view, model, info));
    view.models.iter().filter(goes).collect()
}

/// Choices of as many large enough devices as the model is spread over, the emptiest first.
fn feasible(view: &NodeView, model: &Model, wanted: u64) -> Vec<Vec<u32>> {
    let least = model.min_device_vram_mb.unwrap_or(0).max(wanted);
    // On one that was lost nothing runs, whoever leaves it.
    let is_up = |index| view.health.devices.iter().all(|d| d.index != index || d.state.is_none());
    let large = view.discovery.devices.iter().filter(|d| d.vram_total_mb >= least && is_up(d.index));
    let mut devices: Vec<u32> = large.map(|d| d.index).collect();
    devices.sort_by_key(|&index| (std::cmp::Reverse(free_mb(view, index)), index));
    let mut all = Vec::new();
    choose(&devices, model.min_devices.max(1) as usize, &mut Vec::new(), &mut all);
    all
}

fn choose(from: &[u32], more: usize, chosen: &mut Vec<u32>, all: &mut Vec<Vec<u32>>) {
    if more == 0 {
        all.push(chosen.clone());
        return;
    }
    for at in 0..(from.len() + 1).saturating_sub(more) {
        if all.len() >= CHOICES {
            return;
        }
        chosen.push(from[at]);
        choose(&from[at + 1..], more - 1, chosen, all);
        chosen.pop();
    }
}

/// MiB that are short, by device of the node.
fn short(view: &NodeView, devices: &[u32], need: Need) -> Vec<u64> {
    let missing = |index| match devices.contains(&index) {
        true => need.mb.saturating_sub(free_mb(view, index)).max(need.at_least),
        false => 0,
    };
    view.discovery.devices.iter().map(|d| missing(d.index)).collect()
}

/// MiB of a resident: as its node says, else as the catalogue does.
fn size_mb(config: &Config, info: &ModelInfo) -> Option<u64> {
    info.vram_used_mb.or_else(|| config.catalogue.on_node(&info.id)?.vram_mb)
}

fn resident(config: &Config, view: &NodeView, info: &ModelInfo) -> Resident {
    let each = size_mb(config, info).unwrap_or(0) / info.devices.len().max(1) as u64;
    let on = |index: u32| if info.devices.contains(&index) { each } else { 0 };
    Resident {
        model: info.id.clone(),
        device_mb: view.discovery.devices.iter().map(|d| on(d.index)).collect(),
    }
}

fn resident_facts(config: &Config, view: &NodeView, info: &ModelInfo) -> ResidentFacts {
    let usage = view.node.usage(config.catalogue.id_of(&info.id));
    ResidentFacts {
        size_mb: size_mb(config, info).map(|mb| mb.min(u64::from(u32::MAX - 1)) as u32),
        last_used_s: Some(idle(view, info, usage.idle()).as_secs().min(u64::from(u32::MAX - 1)) as u32),
        uses: Some(usage.uses().min(u64::from(u32::MAX - 1)) as u32),
        load_ms: usage.load_ms(),
        class: Some(class(config.catalogue.on_node(&info.id))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_of_devices() {
        let check = |from: &[u32], n: usize, want: &[&[u32]]| {
            let mut all = Vec::new();
            choose(from, n, &mut Vec::new(), &mut all);
            assert_eq!(all, want, "{n} of {from:?}");
        };
        check(&[2, 0, 1], 1, &[&[2], &[0], &[1]]);
        check(&[2, 0, 1], 2, &[&[2, 0], &[2, 1], &[0, 1]]);
        check(&[2, 0], 3, &[]);
        let mut all = Vec::new();
        choose(&(0..16).collect::<Vec<_>>(), 8, &mut Vec::new(), &mut all);
        assert_eq!(all.len(), CHOICES);
    }
}
