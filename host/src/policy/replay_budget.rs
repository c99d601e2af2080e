//! Room for what sessions remember, over all of them.

use super::limits;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Clones share one budget.
#[derive(Debug, Clone)]
pub struct ReplayBudget(Arc<AtomicUsize>);

impl Default for ReplayBudget {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(limits::REPLAY)))
    }
}

impl ReplayBudget {
    /// Takes so many bytes, or nothing and says false.
    pub fn take(&self, bytes: usize) -> bool {
        // Relaxed: a count, which orders nothing else.
        let less = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    pub fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}
