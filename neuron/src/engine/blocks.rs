//! Blocks of a model's cache: whose they are, and which beginnings of sequences they hold.
//!
//! A full block is known by a chain of hashes over its tokens and those before them. A hash can collide, so
//! the tokens and the block before are kept and compared; tenants have chains of their own. A block that no
//! sequence uses keeps what it holds until its place is wanted: the longest unused goes first.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

mod marks;

use marks::Marks;
pub(crate) use marks::{Changed, Mark};

/// All blocks of one model.
pub(crate) struct Blocks {
    /// Positions of each.
    size: usize,
    shares: bool,
    infos: Vec<Info>,
    free: Vec<u32>,
    /// Blocks that hold something and that nobody uses, the longest unused first, with the stamp that they
    /// got then; an entry with another stamp than its block's is of the past.
    unused: VecDeque<(u32, u64)>,
    unused_count: usize,
    by_hash: HashMap<u64, u32>,
    marks: Marks,
    stamp: u64,
}

#[derive(Default)]
struct Info {
    users: u32,
    stamp: u64,
    /// How often its place was given anew.
    generation: u32,
    known: Option<Known>,
}

/// What a full block holds.
struct Known {
    hash: u64,
    before: Before,
    tokens: Box<[u32]>,
}

#[derive(Clone, PartialEq, Eq)]
enum Before {
    /// Nothing: it begins a sequence of this tenant's.
    Start(Arc<str>),
    /// A block, as it was given out that time.
    Block(u32, u32),
}

/// The blocks of one sequence.
#[derive(Default)]
pub(crate) struct Chain {
    pub(crate) blocks: Vec<u32>,
    /// Blocks at the front that are full and known.
    sealed: usize,
    /// Hash of everything in them.
    hash: u64,
}

impl Blocks {
    /// `shares`: whether a block may serve several sequences.
    pub(crate) fn new(count: usize, size: usize, shares: bool) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            size,
            shares,
            infos: (0..count).map(|_| Info::default()).collect(),
            // The lowest first, so that memory that was never touched stays so as long as possible.
            free: (0..count).rev().collect(),
            unused: VecDeque::new(),
            unused_count: 0,
            by_hash: HashMap::new(),
            marks: Marks::default(),
            stamp: 0,
        }
    }

    /// Blocks for so many tokens.
    pub(crate) fn needed(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.size)
    }

    /// Blocks that can be had.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.unused_count
    }

    pub(crate) fn total(&self) -> usize {
        self.infos.len()
    }

    /// Blocks that hold something, used or not.
    pub(crate) fn filled(&self) -> usize {
        self.infos.len() - self.free.len()
    }

    /// Gives a new sequence the blocks that hold its beginning; returns how many tokens they spare. At least
    /// the last token is left to be run.
    pub(crate) fn find(&mut self, tenant: &Arc<str>, tokens: &[u32], chain: &mut Chain) -> usize {
        debug_assert!(chain.blocks.is_empty());
        *chain = Chain { hash: start(tenant), ..Chain::default() };
        if !self.shares {
            return 0;
        }
        chain.blocks = self.known(tenant, &tokens[..tokens.len().saturating_sub(1)]);
        chain.sealed = chain.blocks.len();
        for &block in &chain.blocks {
            let info = &mut self.infos[block as usize];
            if info.users == 0 {
                self.unused_count -= 1;
                // What stands in `unused` is of the past from now on.
                info.stamp = 0;
            }
            info.users += 1;
            chain.hash = info.known.as_ref().map_or(chain.hash, |known| known.hash);
        }
        chain.sealed * self.size
    }

    /// Adds blocks until there are enough for `tokens`; `false`: there are none left, and none was added.
    pub(crate) fn grow(&mut self, chain: &mut Chain, tokens: usize) -> bool {
        let missing = self.needed(tokens).saturating_sub(chain.blocks.len());
        if missing > self.available() {
            return false;
        }
        for _ in 0..missing {
            let Some(block) = self.free.pop().or_else(|| self.evict()) else { return false };
            self.infos[block as usize].users = 1;
            chain.blocks.push(block);
        }
        true
    }

    /// Makes known what full blocks hold of the first `done` of `tokens`. Where another block holds the same
    /// already, the sequence uses that one from now on.
    pub(crate) fn seal(&mut self, tenant: &Arc<str>, chain: &mut Chain, tokens: &[u32], done: usize) {
        if !self.shares {
            return;
        }
        while (chain.sealed + 1) * self.size <= done {
            let index = chain.sealed;
            let tokens = &tokens[index * self.size..(index + 1) * self.size];
            let block = chain.blocks[index];
            let before = match index {
                0 => Before::Start(Arc::clone(tenant)),
                _ => {
                    let before = chain.blocks[index - 1];
                    Before::Block(before, self.infos[before as usize].generation)
                }
            };
            chain.hash = next(chain.hash, tokens);
            chain.sealed += 1;
            match self.by_hash.get(&chain.hash).copied() {
                None => {
                    self.by_hash.insert(chain.hash, block);
                    let known = Known { hash: chain.hash, before, tokens: tokens.into() };
                    self.infos[block as usize].known = Some(known);
                }
                Some(other) if other != block => {
                    let info = &mut self.infos[other as usize];
                    let same =
                        info.known.as_ref().is_some_and(|k| *k.tokens == *tokens && k.before == before);
                    if same {
                        if info.users == 0 {
                            self.unused_count -= 1;
                            info.stamp = 0;
                        }
                        info.users += 1;
                        chain.blocks[index] = other;
                        self.give_back(block);
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// Notes of a sequence which beginnings of a conversation it holds, as far as its blocks are still known.
    pub(crate) fn mark(&mut self, tenant: &Arc<str>, tokens: &[u32], marks: &[Mark]) {
        let known = self.known(tenant, tokens);
        for mark in marks {
            // What fills no block of its own is found by the mark of what is before it.
            let Some(last) = (mark.tokens.min(tokens.len()) / self.size).min(known.len()).checked_sub(1)
            else {
                continue;
            };
            self.marks.put(mark.hash, known[last], (last + 1) * self.size);
        }
    }

    /// Forgets all that blocks hold; nobody may use any.
    pub(crate) fn forget_all(&mut self) {
        while let Some(block) = self.evict() {
            self.free.push(block);
        }
    }

    /// What has changed of the marks since it was last asked.
    pub(crate) fn changed_marks(&mut self) -> Changed {
        self.marks.changed()
    }

    /// The blocks that hold the beginning of `tokens`.
    fn known(&self, tenant: &Arc<str>, tokens: &[u32]) -> Vec<u32> {
        let (mut blocks, mut hash) = (Vec::new(), start(tenant));
        let mut before = Before::Start(Arc::clone(tenant));
        for tokens in tokens.chunks_exact(self.size) {
            hash = next(hash, tokens);
            let Some(&block) = self.by_hash.get(&hash) else { break };
            let info = &self.infos[block as usize];
            if !info.known.as_ref().is_some_and(|k| *k.tokens == *tokens && k.before == before) {
                break;
            }
            before = Before::Block(block, info.generation);
            blocks.push(block);
        }
        blocks
    }

    /// The sequence is over, or has to make room.
    pub(crate) fn release(&mut self, chain: &mut Chain) {
        // The last first: what continues others is of use only with them.
        for block in std::mem::take(chain).blocks.into_iter().rev() {
            self.give_back(block);
        }
    }

    fn give_back(&mut self, block: u32) {
        let info = &mut self.infos[block as usize];
        info.users -= 1;
        if info.users > 0 {
            return;
        }
        if info.known.is_none() {
            info.generation = info.generation.wrapping_add(1);
            self.free.push(block);
            return;
        }
        self.stamp += 1;
        info.stamp = self.stamp;
        self.unused_count += 1;
        self.unused.push_back((block, self.stamp));
        // Entries of the past must not pile up.
        if self.unused.len() > 2 * self.infos.len() + 16 {
            let infos = &self.infos;
            self.unused.retain(|(block, stamp)| infos[*block as usize].stamp == *stamp);
        }
    }

    /// Takes the place of the longest unused block.
    fn evict(&mut self) -> Option<u32> {
        loop {
            let (block, stamp) = self.unused.pop_front()?;
            let info = &mut self.infos[block as usize];
            if info.stamp != stamp {
                continue;
            }
            info.stamp = 0;
            info.generation = info.generation.wrapping_add(1);
            if let Some(known) = info.known.take() {
                self.by_hash.remove(&known.hash);
            }
            self.marks.forget(block);
            self.unused_count -= 1;
            return Some(block);
        }
    }
}

fn start(tenant: &str) -> u64 {
    xxh3_64(tenant.as_bytes())
}

fn next(hash: u64, tokens: &[u32]) -> u64 {
    // In one buffer: a hash's own state costs more than copying a block's tokens.
    let mut bytes = Vec::with_capacity(tokens.len() * 4);
    tokens.iter().for_each(|token| bytes.extend_from_slice(&token.to_le_bytes()));
    xxh3_64_with_seed(&bytes, hash)
}

#[cfg(test)]
mod tests;
