//! Which beginnings of conversations a model's cache holds, for those who ask from outside the thread.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::engine::Changed;

/// Numbers of changes are the process's: a model that is loaded anew has none that it had before.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// Written by the device's thread alone.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    /// Tokens by hash.
    held: Mutex<BTreeMap<u64, u64>>,
    version: AtomicU64,
}

impl Prefixes {
    pub(crate) fn apply(&self, changed: &Changed) {
        let mut held = self.lock();
        for hash in &changed.removed {
            held.remove(hash);
        }
        held.extend(changed.added.iter().map(|mark| (mark.hash, mark.tokens as u64)));
        drop(held);
        self.version.store(CHANGES.fetch_add(1, Relaxed) + 1, Relaxed);
    }

    /// Another number after every change.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    /// Tokens by hash.
    pub(crate) fn held(&self) -> BTreeMap<u64, u64> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
