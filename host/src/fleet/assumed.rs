//! What a node's cache is taken to hold before the node has said so: the beginnings of conversations that are
//! with it now.

use super::Node;
use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Entries that are assumed of one node; past it nothing more is.
const MOST: usize = 1 << 13;
/// A node says within this time after an answer's end what its cache holds, or it holds nothing.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes of a message that are taken for one token.
const TOKEN_BYTES: usize = 4;

/// By an entry's hash, which is salted with tenant and model.
pub(super) type Assumed = HashMap<u64, Entry>;

pub(super) struct Entry {
    /// Estimated.
    tokens: u32,
    /// Requests under way that have this beginning.
    held: u32,
    /// Until when it counts once none has.
    until: Instant,
}

/// While it lives, and a moment longer, the conversation's beginnings count as cached on the node.
pub struct Assumption {
    node: Arc<Node>,
    hashes: Arc<[u64]>,
    grace: Duration,
}

impl Assumption {
    /// `entries`: the hash after each message; `bytes`: of each message.
    pub(super) fn new(
        node: &Arc<Node>,
        entries: Arc<[u64]>,
        bytes: impl Iterator<Item = usize>,
    ) -> Option<Self> {
        let mut assumed = lock(node);
        let now = Instant::now();
        if assumed.len() + entries.len() > MOST {
            assumed.retain(|_, entry| entry.held > 0 || entry.until > now);
        }
        if entries.is_empty() || assumed.len() + entries.len() > MOST {
            return None;
        }
        let mut all = 0;
        for (hash, bytes) in entries.iter().zip(bytes) {
            all += bytes;
            let tokens = (all / TOKEN_BYTES).min(u32::MAX as usize - 1) as u32;
            assumed.entry(*hash).or_insert(Entry { tokens, held: 0, until: now }).held += 1;
        }
        drop(assumed);
        Some(Self { node: node.clone(), hashes: entries, grace: GRACE })
    }

    /// The node did not take the request: nothing of it is there.
    pub fn deny(mut self) {
        self.grace = Duration::ZERO;
    }
}

impl Drop for Assumption {
    fn drop(&mut self) {
        let until = Instant::now() + self.grace;
        let mut assumed = lock(&self.node);
        for hash in self.hashes.iter() {
            let Some(entry) = assumed.get_mut(hash) else { continue };
            entry.held = entry.held.saturating_sub(1);
            entry.until = entry.until.max(until);
        }
    }
}

/// Tokens of the beginning with that hash; `None` where nothing is assumed of it.
pub(super) fn tokens(assumed: &Assumed, hash: u64) -> Option<u32> {
    let entry = assumed.get(&hash)?;
    (entry.held > 0 || entry.until > Instant::now()).then_some(entry.tokens)
}

pub(super) fn lock(node: &Node) -> MutexGuard<'_, Assumed> {
    node.assumed.lock().unwrap_or_else(PoisonError::into_inner)
}
