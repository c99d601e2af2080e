//! Merging neighbours: the pair of the best rank becomes one, of equals the leftmost, until no pair makes anything.

use std::{cmp::Ordering, collections::BinaryHeap};

/// A stretch of the text that is one so far, in a list of those that are left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    /// Bytes from the start of the text.
    pub(super) start: usize,
    /// Bytes; 0 once it has become part of the one before.
    pub(super) len: usize,
    pub(super) id: u32,
    before: Option<usize>,
    after: Option<usize>,
}

/// Two neighbours that make another.
struct Pair<R> {
    rank: R,
    /// Of what they make.
    id: u32,
    left: usize,
    right: usize,
    /// Of both together, to know whether either has changed since: they only grow.
    len: usize,
}

/// What it takes to merge a word, for the next one to use again.
pub(super) struct Merger<R> {
    symbols: Vec<Symbol>,
    pairs: BinaryHeap<Pair<R>>,
}

impl<R: Ord> Merger<R> {
    pub(super) fn new() -> Self {
        Self { symbols: Vec::new(), pairs: BinaryHeap::new() }
    }

    /// Another word begins.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.pairs.clear();
    }

    /// The next symbol of the word.
    pub(super) fn push(&mut self, start: usize, len: usize, id: u32) {
        let at = self.symbols.len();
        if let Some(last) = self.symbols.last_mut() {
            last.after = Some(at);
        }
        self.symbols.push(Symbol { start, len, id, before: at.checked_sub(1), after: None });
    }

    /// What is left of the word once all is merged. `make`: how good the pair is, the greatest being the best, and
    /// the id of what it makes.
    pub(super) fn merge(
        &mut self,
        make: impl Fn(&Symbol, &Symbol) -> Option<(R, u32)>,
    ) -> impl Iterator<Item = &Symbol> {
        let Self { symbols, pairs } = self;
        let pair = |symbols: &[Symbol], left: usize, right: usize| {
            let (a, b) = (&symbols[left], &symbols[right]);
            make(a, b).map(|(rank, id)| Pair { rank, id, left, right, len: a.len + b.len })
        };
        pairs.extend((1..symbols.len()).filter_map(|right| pair(symbols, right - 1, right)));
        while let Some(best) = pairs.pop() {
            let (left, right) = (&symbols[best.left], &symbols[best.right]);
            if left.len == 0 || right.len == 0 || left.len + right.len != best.len {
                continue;
            }
            let (before, after) = (left.before, right.after);
            symbols[best.right].len = 0;
            let merged = &mut symbols[best.left];
            (merged.len, merged.id, merged.after) = (best.len, best.id, after);
            if let Some(after) = after {
                symbols[after].before = Some(best.left);
                pairs.extend(pair(symbols, best.left, after));
            }
            if let Some(before) = before {
                pairs.extend(pair(symbols, before, best.left));
            }
        }
        symbols.iter().filter(|symbol| symbol.len > 0)
    }
}

impl<R: Ord> Ord for Pair<R> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.cmp(&other.rank).then(other.left.cmp(&self.left))
    }
}

impl<R: Ord> PartialOrd for Pair<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R: Ord> PartialEq for Pair<R> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<R: Ord> Eq for Pair<R> {}
