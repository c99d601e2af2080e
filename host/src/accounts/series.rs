//! Usage over time, by the minute for two hours and by the hour for a month, and by model for good.

use super::Counts;
use crate::config::LONGEST_WINDOW;
use std::collections::BTreeMap;
use std::time::Duration;

/// How finely time is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grain {
    Minute,
    Hour,
}

impl Grain {
    pub(super) const ALL: [Self; 2] = [Self::Minute, Self::Hour];

    pub(super) fn seconds(self) -> u64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3600,
        }
    }

    /// How long usage is kept by it.
    pub(super) fn kept(self) -> Duration {
        match self {
            Self::Minute => Duration::from_secs(2 * 3600),
            Self::Hour => LONGEST_WINDOW,
        }
    }

    /// The finest that reaches back so far.
    fn of(window: Duration) -> Self {
        if window <= Self::Minute.kept() { Self::Minute } else { Self::Hour }
    }

    /// The first slot that a window reaches into which ends now.
    pub(super) fn first(self, window: Duration, second: u64) -> u64 {
        second.saturating_sub(window.as_secs().saturating_sub(1)) / self.seconds()
    }
}

/// Of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// By grain and by the number of the slot since the Unix epoch.
    pub(super) slots: BTreeMap<(Grain, u64), Counts>,
    pub(super) models: BTreeMap<String, Counts>,
}

impl Usage {
    pub(super) fn is_empty(&self) -> bool {
        self.models.is_empty() && self.slots.is_empty()
    }

    pub(super) fn book(&mut self, model: &str, used: Counts, second: u64) {
        for grain in Grain::ALL {
            let first = grain.first(grain.kept(), second);
            while let Some((&slot, _)) = self.slots.range((grain, 0)..(grain, first)).next() {
                self.slots.remove(&slot);
            }
            add(&mut self.slots, (grain, second / grain.seconds()), used);
        }
        add(&mut self.models, model.to_owned(), used);
    }

    pub(super) fn total(&self) -> Counts {
        self.models.values().fold(Counts::default(), |sum, counts| sum + *counts)
    }

    /// What was used within that time up to now; a slot that reaches into it counts as a whole.
    pub(super) fn within(&self, window: Duration, second: u64) -> Counts {
        let grain = Grain::of(window);
        let slots = self.slots.range((grain, grain.first(window, second))..=(grain, u64::MAX));
        slots.fold(Counts::default(), |sum, (_, counts)| sum + *counts)
    }

    /// When enough has left the window for `fits` to hold of what has left it; `None`: never by that alone.
    pub(super) fn until(
        &self,
        window: Duration,
        second: u64,
        fits: impl Fn(Counts) -> bool,
    ) -> Option<Duration> {
        let grain = Grain::of(window);
        let slots = self.slots.range((grain, grain.first(window, second))..=(grain, u64::MAX));
        let mut freed = Counts::default();
        for (&(_, slot), counts) in slots {
            freed = freed + *counts;
            if fits(freed) {
                let leaves = (slot + 1) * grain.seconds() + window.as_secs() - 1;
                return Some(Duration::from_secs(leaves.saturating_sub(second).max(1)));
            }
        }
        None
    }

    pub(super) fn merge(&mut self, other: &Self) {
        other.slots.iter().for_each(|(slot, counts)| add(&mut self.slots, *slot, *counts));
        other.models.iter().for_each(|(model, counts)| add(&mut self.models, model.clone(), *counts));
    }

    /// Takes away what `other` is a part of.
    pub(super) fn subtract(&mut self, other: &Self) {
        take(&mut self.slots, &other.slots);
        take(&mut self.models, &other.models);
    }
}

fn add<K: Ord>(all: &mut BTreeMap<K, Counts>, key: K, counts: Counts) {
    let sum = all.entry(key).or_default();
    *sum = *sum + counts;
}

fn take<K: Ord>(all: &mut BTreeMap<K, Counts>, other: &BTreeMap<K, Counts>) {
    for (key, counts) in other {
        if let Some(sum) = all.get_mut(key) {
            *sum = *sum - *counts;
            if *sum == Counts::default() {
                all.remove(key);
            }
        }
    }
}
