//! A tokenizer out of a GGUF header.
//!
//! Ids are llama.cpp's: the same split into words, the same merges, special tokens found the same way.
//! Only byte-level BPE vocabularies with a known pre-tokenizer are taken; guessing would split text
//! wrongly without a sign of it.

use std::{cmp::Reverse, collections::HashMap};

use tokenizers::{
    Model as _, OffsetType, PreTokenizedString,
    models::bpe::{BPE, Vocab},
};

use super::{
    Control, END_OF_GENERATION, MARK, PIECE_BYTES, Scheme, Tokenizer, TokenizerError, bytes, pre,
    special::{Fragment, Special, fragments},
};
use crate::gguf::{GgufError, Header};

/// GGUF's `token_type` values.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// How text becomes ids.
pub(super) struct Words {
    bpe: BPE,
    pre: pre::PreTokenizer,
    /// Tokens found in text before it is split, the longest first.
    special: Vec<Special>,
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
        let control = special.iter().filter(|special| special.is_control);
        let control = control.map(|special| special.text.clone()).collect();
        let scheme = Scheme::Gguf(Box::new(Words { bpe, pre: rule.compile(), special }));
        Ok(Self { scheme, pieces, control, end, bos, eos, add_bos, longest, leading_spaces: 0, texts })
    }
}

impl Words {
    pub(super) fn encode(&self, text: &str, control: Control) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 8);
        for fragment in fragments(&self.special, text, control != Control::IsText) {
            match fragment {
                Fragment::Special(id) => ids.push(id),
                Fragment::Text(text) if control == Control::Guarded && text.contains(MARK) => {
                    ids.extend(self.encode(&text.replace(MARK, ""), Control::IsText));
                }
                Fragment::Text(text) => self.encode_plain(text, &mut ids),
            }
        }
        ids
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
