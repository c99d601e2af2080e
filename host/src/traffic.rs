//! Requests under way, phase by phase, and what they add up to from second to second.

mod samples;

use crate::request::RequestRecord;
use samples::Samples;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Requests come and go on all threads: as many tables as keep them out of each other's way.
const SHARDS: usize = 16;

/// The phases that take time, in their order; the others take microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Read,
    Route,
    Acquire,
    Forward,
    Relay,
}

const PHASES: [&str; 5] = ["read", "route", "acquire", "forward", "relay"];

/// When each phase began first, in seconds since the arrival; what was not entered is left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Phases([Option<f64>; PHASES.len()]);

/// One request that has not been settled.
pub(crate) struct Underway {
    id: String,
    arrived: Instant,
    arrived_ms: u64,
    now: AtomicU8,
    /// Microseconds since the arrival, and one; 0 = not entered.
    begun: [AtomicU32; PHASES.len()],
    tokens: AtomicU64,
    about: Mutex<About>,
}

#[derive(Debug, Clone, Default, Serialize)]
struct About {
    key: String,
    dialect: String,
    model: String,
    node: Option<String>,
}

/// A request under way, for people.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct UnderwayStatus {
    pub(crate) id: String,
    pub(crate) arrived_ms: u64,
    phase: &'static str,
    phases: Phases,
    /// Pieces of the answer that have passed.
    tokens: u64,
    #[serde(flatten)]
    about: About,
}

/// All requests under way, and the last minutes in samples.
#[derive(Default)]
pub struct Traffic {
    shards: [Mutex<HashMap<u64, Arc<Underway>>>; SHARDS],
    pub(crate) samples: Samples,
}

impl Traffic {
    pub(crate) fn opened(&self, seed: u64, id: &str, arrived: Instant, arrived_ms: u64) -> Arc<Underway> {
        let underway = Arc::new(Underway {
            id: id.to_owned(),
            arrived,
            arrived_ms,
            now: AtomicU8::new(0),
            begun: Default::default(),
            tokens: AtomicU64::new(0),
            about: Mutex::default(),
        });
        underway.enter(Phase::Read);
        self.shard(seed).insert(seed, underway.clone());
        underway
    }

    /// `record.phases` is not looked at: it was made from the entry.
    pub(crate) fn settled(&self, seed: u64, record: &RequestRecord) {
        self.shard(seed).remove(&seed);
        self.samples.settled(record);
    }

    pub(crate) fn count(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// At most `most` of them, the oldest and the newest: those that hang, and those that one has just made.
    pub(crate) fn list(&self, most: usize) -> Vec<UnderwayStatus> {
        let mut all: Vec<Arc<Underway>> =
            self.shards.iter().flat_map(|shard| lock(shard).values().cloned().collect::<Vec<_>>()).collect();
        all.sort_by_key(|underway| underway.arrived);
        if all.len() > most {
            all.drain(most - most / 2..all.len() - most / 2);
        }
        all.iter().map(|underway| underway.status()).collect()
    }

    fn shard(&self, seed: u64) -> MutexGuard<'_, HashMap<u64, Arc<Underway>>> {
        lock(&self.shards[seed as usize % SHARDS])
    }
}

impl Underway {
    /// Entered anew it is where the request is, and began when it began first.
    pub(crate) fn enter(&self, phase: Phase) {
        self.now.store(phase as u8, Ordering::Relaxed);
        let since = u32::try_from(self.arrived.elapsed().as_micros()).unwrap_or(u32::MAX - 1) + 1;
        let _began_before =
            self.begun[phase as usize].compare_exchange(0, since, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(crate) fn about(&self, key: &str, dialect: &str, model: &str) {
        let mut about = lock(&self.about);
        *about = About { key: key.into(), dialect: dialect.into(), model: model.into(), node: None };
    }

    pub(crate) fn at(&self, node: &str) {
        lock(&self.about).node = Some(node.to_owned());
    }

    pub(crate) fn token(&self) {
        self.tokens.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn phases(&self) -> Phases {
        let at = |begun: &AtomicU32| match begun.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(f64::from(micros - 1) / 1e6),
        };
        Phases(std::array::from_fn(|phase| at(&self.begun[phase])))
    }

    fn status(&self) -> UnderwayStatus {
        UnderwayStatus {
            id: self.id.clone(),
            arrived_ms: self.arrived_ms,
            phase: PHASES[usize::from(self.now.load(Ordering::Relaxed)).min(PHASES.len() - 1)],
            phases: self.phases(),
            tokens: self.tokens.load(Ordering::Relaxed),
            about: lock(&self.about).clone(),
        }
    }
}

impl Serialize for Phases {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, at_s) in PHASES.iter().zip(self.0) {
            if let Some(at_s) = at_s {
                map.serialize_entry(name, &at_s)?;
            }
        }
        map.end()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_under_way_from_its_arrival_until_it_is_settled() {
        let traffic = Traffic::default();
        let early = traffic.opened(7, "req_7", Instant::now(), 1000);
        let _late = traffic.opened(23, "req_23", Instant::now(), 2000);
        early.about("alice", "anthropic", "o/m");
        early.enter(Phase::Route);
        early.enter(Phase::Forward);
        early.at("n0");
        early.token();
        // Another node is tried.
        early.enter(Phase::Route);
        let first = serde_json::to_value(&traffic.list(1)[0]).unwrap();
        assert_eq!(first["id"], "req_7");
        assert_eq!(first["phase"], "route");
        assert_eq!(first["node"], "n0");
        assert_eq!(first["tokens"], 1);
        let phases: Vec<&String> = first["phases"].as_object().unwrap().keys().collect();
        assert_eq!(phases, ["read", "route", "forward"], "what was not entered is left out");
        let _between = traffic.opened(24, "req_24", Instant::now(), 2001);
        let _newest = traffic.opened(25, "req_25", Instant::now(), 2002);
        let ids: Vec<String> = traffic.list(2).into_iter().map(|one| one.id).collect();
        assert_eq!(ids, ["req_7", "req_25"], "the oldest and the newest");
        assert_eq!(traffic.count(), 4);
        traffic.settled(7, &RequestRecord::default());
        assert_eq!(traffic.list(9).len(), 3);
    }
}
