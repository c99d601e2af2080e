//! The judgement, free of WebAssembly.

use crate::settings::Settings;
use alloc::vec::Vec;
use policy_kit::hash::mix;

/// How ready a node is for the model, as docs/facts.md numbers it.
pub mod state {
    /// Weights on the device.
    pub const LOADED: u32 = 5;
    /// The least that can still serve: after an eviction.
    pub const FITS_AFTER_EVICTION: u32 = 1;
}

/// Facts of a node that are read, in the order of a [`Row`].
pub const NODE_FACTS: [&str; 6] = ["state", "running", "queued", "capacity", "prefix_tokens", "vram_free_mb"];

/// One node's facts; [`UNKNOWN`] = not known.
pub type Row = [u32; NODE_FACTS.len()];

/// A fact that is not known.
pub const UNKNOWN: u32 = u32::MAX;

/// What is known of the request.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub model: &'a str,
    /// The same over the turns of a conversation.
    pub session: Option<u64>,
    /// Random, new for every request.
    pub seed: u64,
    /// Estimated; [`UNKNOWN`] = not known.
    pub prompt_tokens: u32,
}

/// Writes node indices to `picks`, best first: the favourite, then the other loaded ones, least loaded first,
/// then those that must load, readiest first. Nodes that cannot serve are left out.
///
/// `names[i]` is the hash of the name of the node of `rows[i]`: it stays when others come and go. `keys` is
/// scratch memory; its contents do not matter.
pub fn choose(
    settings: &Settings,
    asked: &Asked,
    names: &[u64],
    rows: &[Row],
    keys: &mut Vec<u64>,
    picks: &mut Vec<u16>,
) {
    let fleet = Fleet::survey(rows);
    // Equally loaded nodes stand in an order of the conversation's own, so that not all meet on the first.
    let salt = asked.session.unwrap_or(asked.seed);
    let favourite = favourite(settings, asked, names, rows, &fleet);
    let model = if fleet.all_loaded { 0 } else { policy_kit::hash::name(asked.model) };
    keys.clear();
    keys.extend(rows.iter().zip(names).enumerate().filter_map(|(i, (row, name))| {
        let node = Node(row);
        let rank = match node.state() {
            _ if favourite == Some(i) => 0,
            state::LOADED => rank(1, node.load(), mix(name ^ salt)),
            state @ state::FITS_AFTER_EVICTION..state::LOADED => {
                rank(u64::from(state::LOADED + 1 - state), node.memory_used(), mix(name ^ model))
            }
            _ => return None,
        };
        Some(rank | i as u64)
    }));
    policy_kit::sort(keys);
    picks.clear();
    picks.extend(keys.iter().map(|key| *key as u16));
}

/// Bits of a key for the number that is compared inside a class.
const NUMBER_BITS: u32 = 22;

/// A key but for its lower 16 bits, the node's index: class, then number, then as much of the hash as there is
/// room for.
fn rank(class: u64, number: u64, hash: u64) -> u64 {
    let number = number.min((1 << NUMBER_BITS) - 1);
    class << 61 | number << (61 - NUMBER_BITS) | hash >> (64 - 61 + NUMBER_BITS + 16) << 16
}

/// One node's facts under their names.
#[derive(Clone, Copy)]
struct Node<'a>(&'a Row);

impl Node<'_> {
    fn state(self) -> u32 {
        self.0[0]
    }

    /// Requests that run or wait there; what is not known counts as none.
    fn load(self) -> u64 {
        let known = |n: u32| if n == UNKNOWN { 0 } else { u64::from(n) };
        known(self.0[1]) + known(self.0[2])
    }

    /// Where it is not known how many requests run at once, there is always room for one more.
    fn has_free_seat(self) -> bool {
        self.load() < u64::from(self.0[3])
    }

    /// Tokens of this prompt in its cache.
    fn cached(self) -> u32 {
        if self.0[4] == UNKNOWN { 0 } else { self.0[4] }
    }

    /// Smaller where more MiB are free; not known is worst.
    fn memory_used(self) -> u64 {
        let free = if self.0[5] == UNKNOWN { 0 } else { self.0[5] };
        (1 << NUMBER_BITS) - 1 - u64::from(free).min((1 << NUMBER_BITS) - 1)
    }
}

/// What is true of the loaded nodes together.
struct Fleet {
    loaded: u64,
    all_loaded: bool,
    /// Requests on all of them, and on the least loaded one.
    load: u64,
    least_load: u64,
    /// Tokens of this prompt that each of them has cached: no reason to prefer any.
    common: u32,
    /// Tokens that the one with most has.
    most: u32,
}

impl Fleet {
    fn survey(rows: &[Row]) -> Self {
        let mut fleet =
            Self { loaded: 0, all_loaded: true, load: 0, least_load: u64::MAX, common: UNKNOWN, most: 0 };
        for node in rows.iter().map(Node) {
            if node.state() != state::LOADED {
                fleet.all_loaded = false;
                continue;
            }
            fleet.loaded += 1;
            fleet.load += node.load();
            fleet.least_load = fleet.least_load.min(node.load());
            fleet.common = fleet.common.min(node.cached());
            fleet.most = fleet.most.max(node.cached());
        }
        fleet
    }

    /// Whether a node that saves so many tokens of prefill may have one request more. It may have some more than
    /// the least loaded one: what the factor gives of the fair share, or the slack while it has a seat.
    fn takes(&self, settings: &Settings, node: Node, saved: u32) -> bool {
        let above_fair = u64::from(settings.busy_factor_milli.saturating_sub(1000));
        let by_share = (self.load + 1) * above_fair / (self.loaded * 1000);
        let by_slack = match (node.has_free_seat(), saved.checked_div(settings.tokens_per_slack)) {
            (true, more) => u64::from(settings.slack) + u64::from(more.unwrap_or(0)),
            (false, _) => 0,
        };
        // The least loaded one itself is never busy.
        node.load() < self.least_load + by_share.max(by_slack).max(1)
    }
}

/// Longest cached prefix, else the session's home by rendezvous hashing (of which a new or lost node moves
/// only its own share), each only while not busy; without a session the less loaded of two drawn at random.
/// None where the least loaded is to be taken.
fn favourite(
    settings: &Settings,
    asked: &Asked,
    names: &[u64],
    rows: &[Row],
    fleet: &Fleet,
) -> Option<usize> {
    if fleet.loaded == 0 {
        return None;
    }
    // Tokens that are worth something: more than every node has, and not too few against the prompt.
    let share = match asked.prompt_tokens {
        UNKNOWN => 0,
        prompt => (u64::from(prompt) * u64::from(settings.min_prefix_percent) / 100) as u32,
    };
    let least = settings.min_prefix_tokens.max(share).max(1);
    let idle = |node: Node, saved: u32| fleet.takes(settings, node, saved);
    let nodes = || rows.iter().map(Node).zip(names).enumerate();
    let loaded = || nodes().filter(|(_, (node, _))| node.state() == state::LOADED);

    if fleet.most - fleet.common >= least {
        let holds = |(_, (node, _)): &(usize, (Node, &u64))| {
            let saved = node.cached() - fleet.common;
            saved >= least && idle(*node, saved)
        };
        // Of two that hold as much, the less loaded.
        let holder =
            loaded().filter(holds).max_by_key(|(_, (n, _))| (n.cached(), core::cmp::Reverse(n.load())));
        if let Some((holder, _)) = holder {
            return Some(holder);
        }
    }
    match asked.session {
        Some(session) => {
            let (home, (node, _)) = loaded().max_by_key(|(_, (_, name))| mix(*name ^ session))?;
            idle(node, 0).then_some(home)
        }
        None => {
            let [a, b] = two_of(asked.seed, fleet.loaded);
            let (a, b) = (loaded().nth(a)?, loaded().nth(b)?);
            let (index, (node, _)) = if b.1.0.load() < a.1.0.load() { b } else { a };
            idle(node, 0).then_some(index)
        }
    }
}

/// Two numbers below `n`, different where there are two.
fn two_of(seed: u64, n: u64) -> [usize; 2] {
    let below = |n: u64, random: u64| ((random & 0xffff_ffff) * n) >> 32;
    let a = below(n, seed);
    let b = a + 1 + below(n - 1, seed >> 32);
    [a as usize, (if b >= n { b - n } else { b }) as usize]
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
