//! Which beginnings of conversations lie in the cache, for those outside who send conversations here.
//!
//! A conversation's beginning is known outside by a hash over its messages, and inside by the block that
//! ends it. Where that block goes, so does the mark: a block always goes before those that it continues.

use std::collections::HashMap;

/// Marks of one block: conversations that differ only in their last few tokens share their last full block,
/// and any number of them may come.
const MARKS_OF_A_BLOCK: usize = 8;

/// A conversation's beginning, and how many tokens of a sequence it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) hash: u64,
    pub(crate) tokens: usize,
}

#[derive(Default)]
pub(super) struct Marks {
    /// The block that ends it, and the tokens up to there.
    of_hash: HashMap<u64, (u32, usize)>,
    /// The oldest first.
    of_block: HashMap<u32, Vec<u64>>,
    changed: Changed,
}

/// Marks that came and went.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) added: Vec<Mark>,
    pub(crate) removed: Vec<u64>,
}

impl Marks {
    pub(super) fn put(&mut self, hash: u64, block: u32, tokens: usize) {
        match self.of_hash.get(&hash) {
            Some(&(old, _)) if old == block => return,
            Some(&(old, _)) => self.detach(hash, old),
            None => {}
        }
        let marks = self.of_block.entry(block).or_default();
        let oldest = (marks.len() == MARKS_OF_A_BLOCK).then(|| marks.remove(0));
        marks.push(hash);
        self.of_hash.insert(hash, (block, tokens));
        self.changed.added.push(Mark { hash, tokens });
        if let Some(oldest) = oldest {
            self.of_hash.remove(&oldest);
            self.changed.remove(oldest);
        }
    }

    /// The block holds something else now.
    pub(super) fn forget(&mut self, block: u32) {
        for hash in self.of_block.remove(&block).unwrap_or_default() {
            self.of_hash.remove(&hash);
            self.changed.remove(hash);
        }
    }

    pub(super) fn changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    fn detach(&mut self, hash: u64, block: u32) {
        if let Some(marks) = self.of_block.get_mut(&block) {
            marks.retain(|mark| *mark != hash);
            if marks.is_empty() {
                self.of_block.remove(&block);
            }
        }
    }
}

impl Changed {
    pub(crate) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }

    /// What came since the last look and has gone again was never there.
    fn remove(&mut self, hash: u64) {
        self.added.retain(|mark| mark.hash != hash);
        self.removed.push(hash);
    }
}
