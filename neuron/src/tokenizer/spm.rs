//! SentencePiece's byte-pair vocabularies (Llama 2, Mistral 7B, Gemma): the pair of neighbours that makes
//! the piece of the highest score becomes one, until no pair makes a piece.

use std::{cmp::Ordering, collections::HashMap};

use super::{
    PIECE_BYTES,
    memory::{allocated, table_bytes},
    merge::Merger,
};

/// What a space is written as in pieces.
pub(super) const SPACE: char = '\u{2581}';

/// The vocabulary that text is merged with.
pub(super) struct Spm {
    /// Pieces that a text may become; control tokens and bytes are none.
    pieces: HashMap<Box<str>, Piece>,
    /// Ids of the 256 bytes, for characters that are no piece.
    bytes: Box<[u32; 256]>,
    /// Bytes of text that are merged at once, or a word more. No piece of almost every vocabulary has a space
    /// after anything else, so that words merge alone as they do within the text.
    at_once: usize,
}

#[derive(Clone, Copy)]
struct Piece {
    id: u32,
    score: f32,
}

/// A score of a piece: the highest is the best.
struct Score(f32);

impl Spm {
    /// `pieces`: text, id and score of each. `bytes`: what each byte is where a character is no piece.
    pub(super) fn new<'t>(pieces: impl Iterator<Item = (&'t str, u32, f32)>, bytes: Box<[u32; 256]>) -> Self {
        let pieces: HashMap<Box<str>, _> =
            pieces.map(|(text, id, score)| (text.into(), Piece { id, score })).collect();
        let at_once =
            if pieces.keys().all(|text| word_end(text, 0).is_none()) { PIECE_BYTES } else { usize::MAX };
        Self { pieces, bytes, at_once }
    }

    pub(super) fn held_bytes(&self) -> usize {
        let texts: usize = self.pieces.keys().map(|text| allocated(text.len())).sum();
        table_bytes(self.pieces.len(), size_of::<(Box<str>, Piece)>()) + texts
    }

    /// Appends the ids of `text`, in which spaces are [`SPACE`] already.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let mut rest = text;
        while !rest.is_empty() {
            let (words, after) = rest.split_at(word_end(rest, self.at_once).unwrap_or(rest.len()));
            self.encode_words(words, ids);
            rest = after;
        }
    }

    fn encode_words(&self, text: &str, ids: &mut Vec<u32>) {
        let mut merger = Merger::new();
        for (start, c) in text.char_indices() {
            merger.push(start, c.len_utf8(), 0);
        }
        let merged = merger.merge(|left, right| {
            let piece = self.pieces.get(&text[left.start..left.start + left.len + right.len])?;
            Some((Score(piece.score), piece.id))
        });
        for symbol in merged {
            let text = &text[symbol.start..symbol.start + symbol.len];
            // One that was never merged has no id yet.
            match self.pieces.get(text) {
                Some(piece) => ids.push(piece.id),
                None => ids.extend(text.bytes().map(|byte| self.bytes[usize::from(byte)])),
            }
        }
    }
}

/// Where the first word ends that reaches `least` bytes: before a space that follows anything else.
fn word_end(text: &str, least: usize) -> Option<usize> {
    let is_end = |at: &usize| text[..*at].chars().next_back().is_some_and(|c| c != SPACE);
    let from = text.char_indices().map(|(at, _)| at).find(|at| *at >= least)?;
    text[from..].match_indices(SPACE).map(|(at, _)| from + at).find(is_end)
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Score {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spm() -> Spm {
        let pieces = ["a", "b", "▁", "▁a", "▁▁", "ab", "▁ab", "▁▁▁a", "ba", "aba"];
        let pieces = (0u32..).zip(pieces).map(|(id, text)| (text, id, -f32::from(u8::try_from(id).unwrap())));
        Spm::new(pieces, Box::new(std::array::from_fn(|byte| 1_000 + u32::try_from(byte).unwrap())))
    }

    fn ids(spm: &Spm, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        spm.encode(text, &mut ids);
        ids
    }

    #[test]
    fn the_best_pair_goes_first_and_of_equals_the_leftmost() {
        assert_eq!(ids(&spm(), "aba"), [9]);
        assert_eq!(ids(&spm(), "▁ab"), [6], "▁a comes first, then its b");
        assert_eq!(ids(&spm(), "▁▁▁▁"), [4, 4]);
        assert_eq!(ids(&spm(), "aé"), [0, 1_195, 1_169]);
        assert_eq!(ids(&spm(), ""), [0u32; 0]);
    }

    proptest! {
        #[test]
        fn words_merge_alone_as_within_the_text(text in "[ab▁é]{0,80}", at_once in 0usize..9) {
            let (cut, whole) = (Spm { at_once, ..spm() }, Spm { at_once: usize::MAX, ..spm() });
            prop_assert_eq!(ids(&cut, &text), ids(&whole, &text));
        }
    }

    #[test]
    fn a_vocabulary_with_spaces_within_pieces_is_not_cut() {
        let odd = Spm::new([("a▁b", 0, 0.0)].into_iter(), spm().bytes);
        assert_eq!((odd.at_once, spm().at_once), (usize::MAX, PIECE_BYTES));
    }
}
