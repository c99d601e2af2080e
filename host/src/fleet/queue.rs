//! Who is next among those who wait for one model: strict priority bands, inside a band deficit round-robin
//! over estimated tokens for each key. A band in which somebody has waited for long takes turns with those
//! above it, as a whole: were single requests lifted, a flood that waits would pass everybody else of its band.

use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Tokens that a key may have served before it is the next one's turn; a larger request saves up for it.
const QUANTUM: u64 = 512;
/// What a request counts for at most: the estimate is a client's word.
const MOST_TOKENS: u64 = 1 << 20;
/// A band in which somebody has waited this long, for each band above it that has somebody, takes turns with it.
const AGE: Duration = Duration::from_secs(30);
/// Ids of requests that have left, beyond as many as wait, before they are swept out.
const LEFT_BEHIND: usize = 64;

/// A caller's band.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}

const BANDS: usize = 3;

impl Priority {
    pub fn name(self) -> &'static str {
        ["high", "normal", "low"][self as usize]
    }
}

/// Those who wait, with what each of them brought.
#[derive(Debug)]
pub(super) struct Queue<T> {
    bands: [Band; BANDS],
    waiting: HashMap<u64, Waiting<T>>,
    /// How many each key has waiting.
    tenants: HashMap<String, usize>,
    next_id: u64,
    /// The band that was served last.
    served: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    tenant: String,
    band: usize,
    tokens: u64,
    since: Instant,
    value: T,
}

/// Keys that have somebody waiting in the band, in turn.
#[derive(Debug, Default)]
struct Band {
    turns: VecDeque<Turn>,
}

#[derive(Debug)]
struct Turn {
    tenant: String,
    deficit: u64,
    /// It has been given this turn's quantum.
    granted: bool,
    ids: VecDeque<u64>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            bands: Default::default(),
            waiting: HashMap::new(),
            tenants: HashMap::new(),
            next_id: 0,
            served: 0,
        }
    }
}

impl<T> Queue<T> {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Since when the one has waited who has waited longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiting.values().map(|one| one.since).min()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.waiting.values().map(|one| &one.value)
    }

    /// `tokens`: an estimate of prompt and answer. Returns the id to leave with.
    pub(super) fn join(
        &mut self,
        tenant: &str,
        priority: Priority,
        tokens: u64,
        now: Instant,
        value: T,
    ) -> u64 {
        let (id, band) = (self.next_id, priority as usize);
        self.next_id += 1;
        let tokens = tokens.clamp(1, MOST_TOKENS);
        let tenant = tenant.to_owned();
        *self.tenants.entry(tenant.clone()).or_default() += 1;
        self.bands[band].push(&tenant, id);
        self.waiting.insert(id, Waiting { tenant, band, tokens, since: now, value });
        id
    }

    /// Whose turn it is. Stays the same until somebody leaves, or another band gets its turn.
    pub(super) fn head(&mut self, now: Instant) -> Option<(u64, &T)> {
        self.sweep();
        let Self { bands, waiting, .. } = self;
        bands.iter_mut().for_each(|band| band.forget(waiting));
        let top = bands.iter().position(|band| !band.turns.is_empty())?;
        let distance = |band: usize| bands[top..band].iter().filter(|band| !band.turns.is_empty()).count();
        let takes_turns = |band: &usize| {
            let oldest = bands[*band].turns.iter().filter_map(|turn| waiting.get(turn.ids.front()?));
            let oldest = oldest.map(|one| one.since).min();
            oldest.is_some_and(|since| *band == top || since + AGE * distance(*band) as u32 <= now)
        };
        let in_turn = (1..=BANDS).map(|n| (self.served + n) % BANDS);
        let band = in_turn.filter(|band| *band >= top).find(takes_turns)?;
        let id = bands[band].head(waiting)?;
        waiting.get(&id).map(|one| (id, &one.value))
    }

    /// The one leaves. `served`: its key has had its tokens.
    pub(super) fn leave(&mut self, id: u64, served: bool) -> Option<T> {
        let one = self.waiting.remove(&id)?;
        if let Some(count) = self.tenants.get_mut(&one.tenant) {
            *count -= 1;
            if *count == 0 {
                self.tenants.remove(&one.tenant);
            }
        }
        if served {
            self.served = one.band;
        }
        if served && let Some(turn) = self.bands[one.band].turns.iter_mut().find(|t| t.tenant == one.tenant) {
            turn.deficit = turn.deficit.saturating_sub(one.tokens);
        }
        Some(one.value)
    }

    /// Whom a full queue can best do without: the last to come of the key that has most waiting, where that is
    /// not `tenant` itself, or no worse off.
    pub(super) fn crowding(&self, tenant: &str) -> Option<u64> {
        let own = self.tenants.get(tenant).copied().unwrap_or(0) + 1;
        let (most, count) = self.tenants.iter().max_by_key(|(name, count)| (**count, *name))?;
        if *count <= own {
            return None;
        }
        let of_most = self.waiting.iter().filter(|(_, one)| one.tenant == *most);
        of_most.max_by_key(|(id, one)| (one.band, **id)).map(|(id, _)| *id)
    }

    /// Ids of those who left from the middle go only when their turn would come, or here.
    fn sweep(&mut self) {
        let ids: usize = self.bands.iter().flat_map(|band| &band.turns).map(|turn| turn.ids.len()).sum();
        if ids <= 2 * self.waiting.len() + LEFT_BEHIND {
            return;
        }
        for turn in self.bands.iter_mut().flat_map(|band| &mut band.turns) {
            turn.ids.retain(|id| self.waiting.contains_key(id));
        }
    }
}

impl Band {
    fn push(&mut self, tenant: &str, id: u64) {
        let at = self.turns.iter().position(|turn| turn.tenant == tenant).unwrap_or_else(|| {
            self.turns.push_back(Turn {
                tenant: tenant.to_owned(),
                deficit: 0,
                granted: false,
                ids: VecDeque::new(),
            });
            self.turns.len() - 1
        });
        self.turns[at].ids.push_back(id);
    }

    /// A key that has nobody waiting loses its turn and what it saved.
    fn forget<T>(&mut self, waiting: &HashMap<u64, Waiting<T>>) {
        self.turns.retain_mut(|turn| {
            while turn.ids.front().is_some_and(|id| !waiting.contains_key(id)) {
                turn.ids.pop_front();
            }
            !turn.ids.is_empty()
        });
    }

    fn head<T>(&mut self, waiting: &HashMap<u64, Waiting<T>>) -> Option<u64> {
        let tokens =
            |turn: &Turn| turn.ids.front().and_then(|id| waiting.get(id)).map_or(0, |one| one.tokens);
        // Whole rounds in which nobody could be served yet, at once.
        let rounds = |turn: &Turn| tokens(turn).saturating_sub(turn.deficit).div_ceil(QUANTUM);
        let idle_rounds = self.turns.iter().map(rounds).min()?.saturating_sub(1);
        self.turns.iter_mut().for_each(|turn| turn.deficit += idle_rounds * QUANTUM);
        loop {
            let turn = self.turns.front_mut()?;
            if !std::mem::replace(&mut turn.granted, true) {
                turn.deficit += QUANTUM;
            }
            if tokens(turn) <= turn.deficit {
                return turn.ids.front().copied();
            }
            turn.granted = false;
            self.turns.rotate_left(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now() -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now)
    }

    /// Serves everybody and returns what they brought.
    fn drain(queue: &mut Queue<u32>, at: Instant) -> Vec<u32> {
        let mut order = Vec::new();
        while let Some((id, _)) = queue.head(at) {
            order.extend(queue.leave(id, true));
        }
        order
    }

    #[test]
    fn bands_first_then_keys_in_turn() {
        let mut queue = Queue::default();
        for n in 0..4 {
            queue.join("flood", Priority::Normal, QUANTUM, now(), n);
        }
        queue.join("light", Priority::Normal, 100, now(), 10);
        queue.join("batch", Priority::Low, 1, now(), 20);
        queue.join("boss", Priority::High, 1, now(), 30);
        assert_eq!(drain(&mut queue, now()), [30, 0, 10, 1, 2, 3, 20]);
    }

    #[test]
    fn a_band_that_has_waited_for_long_takes_turns_as_a_whole() {
        let mut queue = Queue::default();
        queue.join("flood", Priority::Low, QUANTUM, now(), 1);
        queue.join("flood", Priority::Low, QUANTUM, now(), 2);
        queue.join("flood", Priority::Low, QUANTUM, now(), 3);
        queue.join("light", Priority::Low, 1, now() + AGE, 4);
        for n in 5..9 {
            queue.join("boss", Priority::Normal, 1, now() + AGE, n);
        }
        // In its own order: who came late is not passed by those who waited.
        assert_eq!(drain(&mut queue, now() + AGE), [5, 1, 6, 4, 7, 2, 8, 3]);
        queue.join("a", Priority::Low, 1, now(), 1);
        queue.join("a", Priority::Normal, 1, now() + AGE, 2);
        queue.join("a", Priority::High, 1, now() + AGE, 3);
        assert_eq!(drain(&mut queue, now() + AGE), [3, 2, 1], "two bands above it: twice the time");
    }

    #[test]
    fn a_full_queue_does_without_the_last_of_the_largest() {
        let mut queue = Queue::default();
        let ids: Vec<u64> = (0..3).map(|n| queue.join("flood", Priority::Normal, 1, now(), n)).collect();
        assert_eq!(queue.crowding("light"), Some(ids[2]));
        assert_eq!(queue.crowding("flood"), None);
        assert_eq!(Queue::<()>::default().crowding("x"), None);
    }

    proptest! {
        /// Keys that always have somebody waiting get the same share, to within a quantum and a request.
        #[test]
        fn shares_are_even(tokens in prop::collection::vec((1u64..9000, 1u64..9000, 1u64..9000), 30)) {
            let (names, most) = (["a", "b", "c"], 9000);
            let mut queue = Queue::default();
            for (a, b, c) in &tokens {
                for (tenant, cost) in names.iter().zip([*a, *b, *c]) {
                    queue.join(tenant, Priority::Normal, cost, now(), (*tenant, cost));
                }
            }
            let mut served: HashMap<&str, u64> = HashMap::new();
            let mut left: HashMap<&str, usize> = names.iter().map(|n| (*n, tokens.len())).collect();
            while left.values().all(|&n| n > 0) {
                let (id, &(tenant, cost)) = queue.head(now()).unwrap();
                queue.leave(id, true);
                *served.entry(tenant).or_default() += cost;
                *left.get_mut(tenant).unwrap() -= 1;
                let all = names.map(|name| served.get(name).copied().unwrap_or(0));
                let spread = all.iter().max().unwrap() - all.iter().min().unwrap();
                prop_assert!(spread <= 2 * QUANTUM + 2 * most, "{all:?}");
            }
        }

        /// Whatever comes and goes, the head is somebody who waits, and stays it until it leaves or a higher
        /// band has somebody; nobody is lost, and those who left take no room.
        #[test]
        fn nobody_is_lost(steps in prop::collection::vec((0u8..6, 0u8..4, 0usize..3, 1u64..5000), 1..300)) {
            let mut queue = Queue::default();
            let mut waiting: Vec<u64> = Vec::new();
            let mut at = now();
            for (what, tenant, band, tokens) in steps {
                let priority = [Priority::High, Priority::Normal, Priority::Low][band];
                match what {
                    0..3 => waiting.push(queue.join(&format!("t{tenant}"), priority, tokens, at, 0u32)),
                    3 if !waiting.is_empty() => {
                        let id = waiting.swap_remove(tokens as usize % waiting.len());
                        prop_assert!(queue.leave(id, false).is_some() && queue.leave(id, true).is_none());
                    }
                    4 => if let Some((id, _)) = queue.head(at) {
                        prop_assert_eq!(queue.head(at).map(|h| h.0), Some(id));
                        queue.leave(id, true);
                        waiting.retain(|w| *w != id);
                    },
                    _ => at += Duration::from_secs(7),
                }
                prop_assert_eq!(queue.len(), waiting.len());
                let head = queue.head(at).map(|h| h.0);
                prop_assert_eq!(head.is_some(), !waiting.is_empty());
                prop_assert!(head.is_none_or(|id| waiting.contains(&id)));
                prop_assert_eq!(queue.tenants.values().sum::<usize>(), waiting.len());
            }
            prop_assert_eq!(drain(&mut queue, at).len(), waiting.len());
            let left: usize = queue.bands.iter().flat_map(|b| &b.turns).map(|t| t.ids.len()).sum();
            prop_assert!(left <= LEFT_BEHIND);
        }
    }
}
