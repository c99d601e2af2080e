//! What all instances of a policy share, over swaps of its file.

use super::limits;
use prometheus::IntCounterVec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Names of counters that a policy may have; more are dropped.
const COUNTERS: usize = 32;
/// Log lines a second that a policy may write; more are dropped.
const LINES_A_SECOND: u32 = 20;
/// Bytes of a log line; the rest is cut.
const LINE_BYTES: usize = 1024;

/// `cortex_policy_counter_total{policy, counter}`.
pub type PolicyCounters = IntCounterVec;

/// A key that a policy read from its store, and what it found.
pub type KvRead = (String, Option<Vec<u8>>);

/// Store, counters and log of one policy.
pub(super) struct Shared {
    pub(super) name: String,
    kv: Mutex<Kv>,
    counters: Option<(PolicyCounters, Mutex<BTreeSet<String>>)>,
    log: Mutex<LogWindow>,
}

#[derive(Default)]
struct Kv {
    entries: BTreeMap<String, Vec<u8>>,
    bytes: usize,
}

struct LogWindow {
    since: Instant,
    lines: u32,
    dropped: u64,
}

impl Shared {
    /// Makes the store hold exactly what a recorded call read, so that the call can be made again.
    pub(super) fn replace(&self, reads: &[KvRead]) {
        let entries: BTreeMap<String, Vec<u8>> =
            reads.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect();
        let bytes = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        *lock(&self.kv) = Kv { entries, bytes };
    }

    /// Without counters: for trying a policy out.
    pub(super) fn new(name: &str, counters: Option<PolicyCounters>) -> Self {
        Self {
            name: name.to_owned(),
            kv: Mutex::default(),
            counters: counters.map(|c| (c, Mutex::default())),
            log: Mutex::new(LogWindow { since: Instant::now(), lines: 0, dropped: 0 }),
        }
    }

    pub(super) fn kv_get(&self, key: &str) -> Option<Vec<u8>> {
        lock(&self.kv).entries.get(key).cloned()
    }

    /// False, with nothing changed, past [`limits::KV`].
    pub(super) fn kv_set(&self, key: String, value: Option<Vec<u8>>) -> bool {
        let mut kv = lock(&self.kv);
        let old = kv.entries.get(&key).map_or(0, |v| key.len() + v.len());
        let new = value.as_ref().map_or(0, |v| key.len() + v.len());
        if kv.bytes - old + new > limits::KV {
            return false;
        }
        kv.bytes = kv.bytes - old + new;
        match value {
            Some(value) => kv.entries.insert(key, value),
            None => kv.entries.remove(&key),
        };
        true
    }

    pub(super) fn count(&self, counter: String, by: u64) {
        let Some((metric, names)) = &self.counters else { return };
        let mut names = lock(names);
        if names.contains(&counter) || names.len() < COUNTERS {
            metric.with_label_values(&[self.name.as_str(), counter.as_str()]).inc_by(by);
            names.insert(counter);
        }
    }

    /// The line to write, cut to its bound, and how many were dropped before it.
    pub(super) fn admit_line(&self, mut line: String) -> Option<(String, u64)> {
        let mut log = lock(&self.log);
        if log.since.elapsed() > Duration::from_secs(1) {
            *log = LogWindow { since: Instant::now(), lines: 0, dropped: log.dropped };
        }
        if log.lines >= LINES_A_SECOND {
            log.dropped += 1;
            return None;
        }
        log.lines += 1;
        line.truncate(line.floor_char_boundary(LINE_BYTES));
        Some((line, std::mem::take(&mut log.dropped)))
    }
}

/// Nothing here panics while it holds a lock, so a poisoned one still holds good data.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_bounded_and_gives_back() {
        let shared = Shared::new("p", None);
        assert!(shared.kv_set("a".into(), Some(vec![1; limits::KV - 1])));
        assert!(!shared.kv_set("b".into(), Some(vec![])));
        assert_eq!(shared.kv_get("b"), None);
        assert!(shared.kv_set("a".into(), None));
        assert!(shared.kv_set("b".into(), Some(vec![7])));
        assert_eq!(shared.kv_get("b"), Some(vec![7]));
    }

    #[test]
    fn a_chatty_policy_is_cut_short() {
        let shared = Shared::new("p", None);
        let admitted = (0..100).filter(|_| shared.admit_line("x".repeat(2000)).is_some()).count();
        assert_eq!(admitted, LINES_A_SECOND as usize);
    }
}
