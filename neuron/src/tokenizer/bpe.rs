//! Byte-level vocabularies: bytes of a word merge by rank, as GPT-2 defined it.
//!
//! Our own, because it is there in a tenth of the time that the tokenizers library takes to lay out the same vocabulary,
//! and in a third of its memory; that library is what the tests hold it against.

use std::cmp::Reverse;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::{bytes, merge::Merger, vocab::Vocab};
use crate::{gguf::GgufError, packed::Texts};

/// How words become ids.
pub(super) struct Bpe {
    /// By the ids of two neighbours: rank, the least first, and what they become.
    merges: HashMap<[u32; 2], (u32, u32), RandomState>,
    /// What each byte is by itself; `None`: nothing, it is passed over.
    bytes: Box<[Option<u32>; 256]>,
    /// A word that is an entry as a whole is not merged from its parts.
    ignores_merges: bool,
}

impl Bpe {
    /// `merges`: two spellings with a space between, best first; of equal ones the first counts.
    ///
    /// Errors where one is not that, or where a part of it or what it makes is no entry.
    pub(super) fn new(vocab: &Vocab, merges: &Texts, ignores_merges: bool) -> Result<Self, GgufError> {
        if let Some(twice) = vocab.twice() {
            return Err(GgufError::Duplicate(format!("the token {twice:?}")));
        }
        let mut table = HashMap::with_capacity_and_hasher(merges.len(), RandomState::default());
        let mut joined = String::new();
        for (rank, merge) in (0u32..).zip(merges.iter()) {
            let Some((left, right)) = parts(merge) else {
                let what = "tokenizer.ggml.merges has an entry that is not two pieces";
                return Err(GgufError::Inconsistent(format!("{what}: {merge:?}")));
            };
            joined.clear();
            joined.extend([left, right]);
            let ids = [left, right, &joined].map(|text| vocab.id(text));
            let [Some(left), Some(right), Some(made)] = ids else {
                let what = "the vocabulary and its merges do not fit";
                return Err(GgufError::Inconsistent(format!("{what}: {merge:?} is not of its tokens")));
            };
            table.entry([left, right]).or_insert((rank, made));
        }
        let of = |byte: u8| vocab.id(bytes::char_of(byte).encode_utf8(&mut [0; 4]));
        let bytes = Box::new(std::array::from_fn(|byte| of(u8::try_from(byte).unwrap_or(0))));
        Ok(Self { merges: table, bytes, ignores_merges })
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.merges.allocation_size() + size_of_val(&*self.bytes)
    }

    /// Appends the ids of a word. `merger`: made once for many words.
    pub(super) fn encode(
        &self,
        vocab: &Vocab,
        word: &str,
        merger: &mut Merger<Reverse<u32>>,
        ids: &mut Vec<u32>,
    ) {
        if self.ignores_merges {
            let spelled: String = word.bytes().map(bytes::char_of).collect();
            if let Some(id) = vocab.id(&spelled) {
                ids.push(id);
                return;
            }
        }
        merger.clear();
        for (at, byte) in word.bytes().enumerate() {
            if let Some(id) = self.bytes[usize::from(byte)] {
                merger.push(at, 1, id);
            }
        }
        let merged = merger.merge(|left, right| {
            self.merges.get(&[left.id, right.id]).map(|(rank, made)| (Reverse(*rank), *made))
        });
        ids.extend(merged.map(|symbol| symbol.id));
    }
}

/// A space inside a piece is written with its byte-level character, so the first one separates.
fn parts(merge: &str) -> Option<(&str, &str)> {
    let at = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at)?;
    let (left, right) = merge.split_at_checked(at)?;
    Some((left, &right[1..]))
}
