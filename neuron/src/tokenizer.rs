//! Text to token ids and back, out of a GGUF header.
//!
//! Ids are llama.cpp's: the same split into words, the same merges, special tokens found the same way.
//! Only byte-level BPE vocabularies with a known pre-tokenizer are taken; guessing would split text
//! wrongly without a sign of it.

mod bytes;
mod guard;
mod pre;
mod special;
mod stream;

use std::{cmp::Reverse, collections::HashMap};

use tokenizers::{
    Model as _, OffsetType, PreTokenizedString,
    models::bpe::{BPE, Vocab},
};

pub use guard::{Guard, MARK, Marked};
pub use pre::supported;
pub use stream::TextStream;

use crate::gguf::{GgufError, Header};
use special::{Fragment, Special};

/// GGUF's `token_type` values.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Bytes of text that are split at once, or a word more: the splitter needs some 300 bytes for each.
const PIECE_BYTES: usize = 16 << 10;

/// Tokens that end an answer whatever the header says of them: chat-tuned files often name only one
/// of the two that their templates use.
const END_OF_GENERATION: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
];

/// Why a header yields no tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The scheme has no rule here: the model or pre-tokenizer by name.
    #[error("tokenizer {0:?} is not supported")]
    Unsupported(String),
    #[error(transparent)]
    File(#[from] GgufError),
}

/// One model's tokenizer.
pub struct Tokenizer {
    bpe: BPE,
    pre: pre::PreTokenizer,
    /// What each id stands for as bytes of text; empty for control tokens.
    pieces: Vec<Box<[u8]>>,
    /// Tokens found in text before it is split, the longest first.
    special: Vec<Special>,
    end: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    /// Bytes of text that one token stands for at most.
    longest: usize,
    texts: Vec<String>,
}

impl Tokenizer {
    /// Builds the tokenizer that the header describes.
    pub fn from_header(header: &Header) -> Result<Self, TokenizerError> {
        let model = header.text("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(TokenizerError::Unsupported(model.to_owned()));
        }
        // llama.cpp, too, takes a file without the key for the oldest rule, but warns that it guesses.
        let name = header.optional_text("tokenizer.ggml.pre")?.unwrap_or("(none named)");
        let rule = pre::rule(name).ok_or_else(|| TokenizerError::Unsupported(name.to_owned()))?;

        let texts = header.texts("tokenizer.ggml.tokens")?.to_vec();
        let kinds = header.numbers("tokenizer.ggml.token_type")?.unwrap_or(&[]);
        let kind = |id: usize| kinds.get(id).copied().unwrap_or(1);
        let pieces: Vec<_> = texts.iter().enumerate().map(|(id, text)| piece(text, kind(id))).collect();

        let mut special = Vec::new();
        let mut end = Vec::new();
        for (id, text) in (0u32..).zip(&texts) {
            let kind = kind(id as usize);
            if matches!(kind, UNKNOWN | CONTROL | USER_DEFINED) && !text.is_empty() {
                special.push(Special { text: text.clone(), id, is_control: kind != USER_DEFINED });
            }
            if END_OF_GENERATION.contains(&text.as_str()) {
                end.push(id);
            }
        }
        let spellings = special.iter().map(|special| special.text.len());
        let longest = pieces.iter().map(|piece| piece.len()).chain(spellings).max().unwrap_or(0);
        special.sort_by_key(|special| Reverse(special.text.len()));

        let id = |key: &str| -> Result<Option<u32>, GgufError> {
            let id = header.optional_number(&format!("tokenizer.ggml.{key}_token_id"))?;
            Ok(id.filter(|id| *id < texts.len() as u64).and_then(|id| u32::try_from(id).ok()))
        };
        let (bos, eos) = (id("bos")?, id("eos")?);
        for named in [eos, id("eot")?, id("eom")?].into_iter().flatten() {
            if !end.contains(&named) {
                end.push(named);
            }
        }
        let add_bos = header.flag("tokenizer.ggml.add_bos_token").unwrap_or(rule.adds_bos);
        let bpe = bpe(&texts, header.texts("tokenizer.ggml.merges")?, rule.ignores_merges)?;
        Ok(Self { bpe, pre: rule.compile(), pieces, special, end, bos, eos, add_bos, longest, texts })
    }

    /// Ids of `text`. Special tokens in it count as such; nothing is put in front.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_fragments(special::fragments(&self.special, text, true), text.len())
    }

    /// As [`Self::encode`], but the spelling of a control token is text like any other.
    pub fn encode_literal(&self, text: &str) -> Vec<u32> {
        self.encode_fragments(special::fragments(&self.special, text, false), text.len())
    }

    fn encode_fragments(&self, fragments: Vec<Fragment<'_>>, bytes: usize) -> Vec<u32> {
        let mut ids = Vec::with_capacity(bytes / 3 + 8);
        for fragment in fragments {
            match fragment {
                Fragment::Special(id) => ids.push(id),
                Fragment::Text(text) => self.encode_plain(text, &mut ids),
            }
        }
        ids
    }

    /// As [`Self::encode`], with the start token in front where the model wants one and the text has none.
    pub fn encode_prompt(&self, text: &str) -> Vec<u32> {
        self.with_start(self.encode(text))
    }

    /// As [`Self::encode_prompt`], for text in which a [`Guard`] has marked what is no control token. The
    /// marks go, and ids of the text around them are those that it has without.
    pub fn encode_guarded(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 8);
        for fragment in special::fragments(&self.special, text, true) {
            match fragment {
                Fragment::Special(id) => ids.push(id),
                Fragment::Text(text) if text.contains(MARK) => {
                    ids.extend(self.encode_literal(&text.replace(MARK, "")));
                }
                Fragment::Text(text) => self.encode_plain(text, &mut ids),
            }
        }
        self.with_start(ids)
    }

    /// What keeps texts of others from spelling this model's control tokens.
    pub fn guard(&self) -> Guard {
        let control = self.special.iter().filter(|special| special.is_control);
        Guard::new(control.map(|special| special.text.clone()).collect())
    }

    fn with_start(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if let Some(bos) = self.bos.filter(|bos| self.add_bos && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        ids
    }

    /// Bytes of text that the id stands for; empty for control tokens and ids out of range.
    pub fn piece(&self, id: u32) -> &[u8] {
        self.pieces.get(id as usize).map_or(&[], |piece| piece)
    }

    /// Text of a whole run of ids; what is not UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.piece(*id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Ids that end an answer.
    pub fn end_ids(&self) -> &[u32] {
        &self.end
    }

    /// The start token's own spelling, for templates; empty where there is none.
    pub fn bos_text(&self) -> &str {
        self.spelling(self.bos)
    }

    /// The end token's own spelling, for templates; empty where there is none.
    pub fn eos_text(&self) -> &str {
        self.spelling(self.eos)
    }

    fn spelling(&self, id: Option<u32>) -> &str {
        id.and_then(|id| self.texts.get(id as usize)).map_or("", String::as_str)
    }

    /// Tokens that `bytes` of text have at least.
    pub fn fewest(&self, bytes: usize) -> usize {
        bytes.div_ceil(self.longest.max(1))
    }

    /// Number of ids.
    pub fn vocab_size(&self) -> usize {
        self.texts.len()
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) {
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, after) = pre::cut(rest, PIECE_BYTES);
            self.encode_piece(piece, ids);
            rest = after;
        }
    }

    fn encode_piece(&self, text: &str, ids: &mut Vec<u32>) {
        let mut words = PreTokenizedString::from(text);
        // Neither step can fail: the patterns are our own, and every byte-level character has an id or none.
        let split = self.pre.split(&mut words);
        let merged = split.and_then(|()| words.tokenize(|word| self.bpe.tokenize(word.get())));
        if let Err(error) = merged {
            tracing::error!(%error, "text could not be tokenized");
            return;
        }
        let words = words.get_splits(tokenizers::OffsetReferential::Original, OffsetType::Byte);
        ids.extend(words.iter().filter_map(|(_, _, tokens)| tokens.as_ref()).flatten().map(|token| token.id));
    }
}

fn piece(text: &str, kind: i64) -> Box<[u8]> {
    match kind {
        CONTROL | UNKNOWN => Box::default(),
        USER_DEFINED => text.as_bytes().into(),
        _ => bytes::to_bytes(text).into(),
    }
}

fn bpe(texts: &[String], merges: &[String], ignore_merges: bool) -> Result<BPE, GgufError> {
    let vocab: Vocab = texts.iter().cloned().zip(0u32..).collect();
    if vocab.len() != texts.len() {
        let mut seen = HashMap::new();
        let twice = texts.iter().find(|text| seen.insert(*text, ()).is_some());
        return Err(GgufError::Duplicate(format!("the token {:?}", twice.map_or("", String::as_str))));
    }
    let merges = merges.iter().map(|merge| {
        // A space inside a piece is written with its byte-level character, so the first one separates.
        let at = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        let (left, right) = merge.split_at_checked(at?)?;
        Some((left.to_owned(), right[1..].to_owned()))
    });
    let merges = merges.collect::<Option<Vec<_>>>().ok_or_else(|| {
        GgufError::Inconsistent("tokenizer.ggml.merges has an entry that is not two pieces".to_owned())
    })?;
    BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(ignore_merges)
        .build()
        .map_err(|e| GgufError::Inconsistent(format!("the vocabulary and its merges do not fit: {e}")))
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.texts.len()).finish_non_exhaustive()
    }
}
