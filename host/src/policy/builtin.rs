//! The answers that serve where no policy does, or where one failed.

use super::Resident;
use crate::facts::{NodeFacts, ResidentFacts, state};
use std::cmp::Reverse;

/// Nodes that can serve, readiest first, of the equally ready the least loaded.
pub fn least_loaded(nodes: &[NodeFacts]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..nodes.len())
        .filter(|&i| nodes[i].state.is_some_and(|s| s >= state::FITS_AFTER_EVICTION))
        .collect();
    order.sort_by_key(|&i| {
        let node = &nodes[i];
        let load = node.running.unwrap_or(0) + node.queued.unwrap_or(0);
        (Reverse(node.state), load, Reverse(node.vram_free_mb))
    });
    order
}

/// The same judgement as the `lru` policy, compiled in.
pub fn least_recently_used(short_mb: &[u64], residents: &[Resident], facts: &[ResidentFacts]) -> Vec<usize> {
    let candidates: Vec<policy_lru::choose::Resident> = residents
        .iter()
        .zip(facts)
        .map(|(resident, facts)| policy_lru::choose::Resident {
            frees_mb: &resident.device_mb,
            idle_s: facts.last_used_s.unwrap_or(u32::MAX),
            load_ms: facts.load_ms.unwrap_or(u32::MAX),
        })
        .collect();
    policy_lru::choose::plan(&policy_lru::settings::Settings::DEFAULT, short_mb, &candidates)
}
