//! The last loads, and what made room for them.

use crate::request::now_ms;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Events that are kept.
const KEPT: usize = 200;

/// What happened to a model on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Loaded,
    LoadFailed,
    Unloaded,
}

/// One of them.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Grows by one from event to event.
    pub number: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub what: What,
    pub model: String,
    pub node: String,
    /// For a person: what it was for, or why it failed.
    pub why: String,
    /// Of a load.
    pub seconds: Option<f64>,
}

/// The last events, the newest last.
#[derive(Default)]
pub struct Chronicle {
    kept: Mutex<VecDeque<Event>>,
}

impl Chronicle {
    pub(super) fn add(&self, what: What, model: &str, node: &str, why: String, seconds: Option<f64>) {
        let mut kept = self.lock();
        let number = kept.back().map_or(0, |last| last.number + 1);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        let (model, node) = (model.to_owned(), node.to_owned());
        kept.push_back(Event { number, at_ms: now_ms(), what, model, node, why, seconds });
    }

    pub fn list(&self) -> Vec<Event> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_ones_are_kept() {
        let chronicle = Chronicle::default();
        (0..250).for_each(|_| chronicle.add(What::Loaded, "o/m", "n", "demand".into(), Some(1.0)));
        let kept = chronicle.list();
        assert_eq!((kept.len(), kept[0].number, kept[199].number), (200, 50, 249));
    }
}
