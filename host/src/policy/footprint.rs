//! What the living instances of one generation hold.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counted by the instances' stores as they come, grow and go.
#[derive(Debug, Default)]
pub(super) struct Footprint {
    instances: AtomicUsize,
    bytes: AtomicUsize,
}

// Relaxed throughout: figures for people.
impl Footprint {
    pub(super) fn instances(&self) -> usize {
        self.instances.load(Ordering::Relaxed)
    }

    /// Bytes of linear memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn came(&self) {
        self.instances.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn grew(&self, by: usize) {
        self.bytes.fetch_add(by, Ordering::Relaxed);
    }

    /// An instance that held `bytes` is gone.
    pub(super) fn went(&self, bytes: usize) {
        self.instances.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}
