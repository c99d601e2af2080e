//! A tokenizer out of a GGUF header.
//!
//! Ids are llama.cpp's: the same split into words, the same merges, special tokens found the same way.
//! Byte-level BPE vocabularies are taken with a known pre-tokenizer alone, for guessing would split text
//! wrongly without a sign of it; SentencePiece's have none.

use std::{cmp::Reverse, collections::HashMap};

use tokenizers::{
    Model as _, OffsetType, PreTokenizedString,
    models::bpe::{BPE, Vocab},
};

use super::{
    Control, END_OF_GENERATION, MARK, PIECE_BYTES, Scheme, Tokenizer, TokenizerError, bytes, pre,
    special::{Fragment, Special, fragments},
    spm::{SPACE, Spm},
};
use crate::gguf::{GgufError, Header};

/// GGUF's `token_type` values.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const BYTE: i64 = 6;

/// `tokenizer.ggml.model` of vocabularies of SentencePiece.
pub(super) const SPM: &str = "llama";

/// How text becomes ids.
pub(super) struct Words {
    merges: Merges,
    /// Tokens found in text before it is split, the longest first.
    special: Vec<Special>,
}

/// How text without special tokens becomes ids.
enum Merges {
    Bpe {
        bpe: Box<BPE>,
        pre: pre::PreTokenizer,
    },
    Spm {
        spm: Spm,
        /// A text gets a space in front at its start and after each special token.
        adds_space: bool,
    },
}

/// The tokens as the header has them.
struct Tokens<'h> {
    texts: &'h [String],
    kinds: &'h [i64],
}

impl Tokenizer {
    /// Builds the tokenizer that the header describes.
    pub fn from_header(header: &Header) -> Result<Self, TokenizerError> {
        let texts = header.texts("tokenizer.ggml.tokens")?;
        let tokens = Tokens { texts, kinds: header.numbers("tokenizer.ggml.token_type")?.unwrap_or(&[]) };
        let (merges, adds_bos) = match header.text("tokenizer.ggml.model")? {
            "gpt2" => tokens.bpe(header)?,
            SPM => (tokens.spm(header)?, true),
            other => return Err(TokenizerError::Unsupported(other.to_owned())),
        };
        let pieces: Vec<_> =
            texts.iter().enumerate().map(|(id, text)| merges.piece(text, tokens.kind(id))).collect();

        let mut special = Vec::new();
        let mut end = Vec::new();
        for (id, text) in (0u32..).zip(texts) {
            let kind = tokens.kind(id as usize);
            if matches!(kind, UNKNOWN | CONTROL | USER_DEFINED) && !text.is_empty() {
                special.push(Special { text: text.clone(), id, is_control: kind != USER_DEFINED });
            }
            if END_OF_GENERATION.contains(&text.as_str()) {
                end.push(id);
            }
        }
        let spellings = special.iter().map(|special| special.text.len());
        // A space of SentencePiece's is longer as it is written, and so it may be in a text, too.
        let written = texts.iter().map(String::len).filter(|_| matches!(merges, Merges::Spm { .. }));
        let lengths = pieces.iter().map(|piece| piece.len()).chain(spellings).chain(written);
        let longest = lengths.max().unwrap_or(0);
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
        let add_bos = header.flag("tokenizer.ggml.add_bos_token").unwrap_or(adds_bos);
        let control = special.iter().filter(|special| special.is_control);
        let control = control.map(|special| special.text.clone()).collect();
        let leading_spaces = usize::from(matches!(merges, Merges::Spm { adds_space: true, .. }));
        let scheme = Scheme::Gguf(Box::new(Words { merges, special }));
        let texts = texts.to_vec();
        let adds_eos = header.flag("tokenizer.ggml.add_eos_token").unwrap_or(false);
        let around = [bos.filter(|_| add_bos), eos.filter(|_| adds_eos)].map(|id| id.into_iter().collect());
        Ok(Self { scheme, pieces, control, end, bos, eos, add_bos, longest, leading_spaces, around, texts })
    }
}

impl Tokens<'_> {
    /// What ends an answer is a control token, whatever the file says: no user's text may hold it.
    fn kind(&self, id: usize) -> i64 {
        match self.texts.get(id) {
            Some(text) if END_OF_GENERATION.contains(&text.as_str()) => CONTROL,
            _ => self.kinds.get(id).copied().unwrap_or(NORMAL),
        }
    }

    /// With whether a prompt starts with the start token where the file does not say.
    fn bpe(&self, header: &Header) -> Result<(Merges, bool), TokenizerError> {
        // llama.cpp, too, takes a file without the key for the oldest rule, but warns that it guesses.
        let name = header.optional_text("tokenizer.ggml.pre")?.unwrap_or("(none named)");
        let rule = pre::rule(name).ok_or_else(|| TokenizerError::Unsupported(name.to_owned()))?;
        let bpe = bpe(self.texts, header.texts("tokenizer.ggml.merges")?, rule.ignores_merges)?;
        Ok((Merges::Bpe { bpe: Box::new(bpe), pre: rule.compile() }, rule.adds_bos))
    }

    fn spm(&self, header: &Header) -> Result<Merges, TokenizerError> {
        let scores = header.floats("tokenizer.ggml.scores")?;
        if scores.len() != self.texts.len() || scores.iter().any(|score| score.is_nan()) {
            let what =
                format!("{} tokens have {} scores, or one is no number", self.texts.len(), scores.len());
            return Err(GgufError::Inconsistent(what).into());
        }
        // As in SentencePiece, and unlike in llama.cpp, no text merges into a control token.
        let is_piece = |id: usize| !matches!(self.kind(id), UNKNOWN | CONTROL | BYTE);
        let ids: HashMap<&str, u32> = self.texts.iter().map(String::as_str).zip(0u32..).collect();
        let byte = |byte: u8| ids.get(format!("<0x{byte:02X}>").as_str()).copied();
        let unknown = header.optional_number("tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
        let mut bytes = Box::new([u32::try_from(unknown).unwrap_or(0); 256]);
        for (value, id) in (0u8..=255).zip(bytes.iter_mut()) {
            *id = byte(value).unwrap_or(*id);
        }
        if bytes.iter().any(|id| *id as usize >= self.texts.len()) {
            let what = "tokenizer.ggml.unknown_token_id is past the vocabulary".to_owned();
            return Err(GgufError::Inconsistent(what).into());
        }
        let pieces = self.texts.iter().zip(0u32..).zip(scores.iter());
        let pieces = pieces.filter(|((text, id), _)| !text.is_empty() && is_piece(*id as usize));
        let spm = Spm::new(pieces.map(|((text, id), score)| (text.as_str(), id, *score)), bytes);
        Ok(Merges::Spm { spm, adds_space: header.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true) })
    }
}

impl Words {
    pub(super) fn encode(&self, text: &str, control: Control) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 8);
        self.encode_fragments(text, control, &mut true, &mut ids);
        ids
    }

    /// `starts`: nothing or a special token is before the text.
    fn encode_fragments(&self, text: &str, control: Control, starts: &mut bool, ids: &mut Vec<u32>) {
        for fragment in fragments(&self.special, text, control != Control::IsText) {
            match fragment {
                Fragment::Special(id) => {
                    ids.push(id);
                    *starts = true;
                }
                Fragment::Text(text) if control == Control::Guarded && text.contains(MARK) => {
                    self.encode_fragments(&text.replace(MARK, ""), Control::IsText, starts, ids);
                }
                Fragment::Text(text) => self.merges.encode(text, std::mem::take(starts), ids),
            }
        }
    }
}

impl Merges {
    fn encode(&self, text: &str, starts: bool, ids: &mut Vec<u32>) {
        match self {
            Self::Bpe { bpe, pre } => {
                let mut rest = text;
                while !rest.is_empty() {
                    let (piece, after) = pre::cut(rest, PIECE_BYTES);
                    encode_piece(bpe, pre, piece, ids);
                    rest = after;
                }
            }
            Self::Spm { .. } if text.is_empty() => {}
            Self::Spm { spm, adds_space } => {
                let mut escaped = String::with_capacity(text.len() * 3 / 2 + SPACE.len_utf8());
                escaped.extend((starts && *adds_space).then_some(SPACE));
                escaped.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
                spm.encode(&escaped, ids);
            }
        }
    }

    /// Bytes of text that a token stands for.
    fn piece(&self, text: &str, kind: i64) -> Box<[u8]> {
        match (self, kind) {
            (_, CONTROL | UNKNOWN) => Box::default(),
            (_, USER_DEFINED) => text.as_bytes().into(),
            (Self::Bpe { .. }, _) => bytes::to_bytes(text).into(),
            (Self::Spm { .. }, BYTE) => byte(text).map_or_else(Box::default, |byte| [byte].into()),
            (Self::Spm { .. }, _) => text.replace(SPACE, " ").into_bytes().into(),
        }
    }
}

/// The byte that `<0x41>` spells.
fn byte(text: &str) -> Option<u8> {
    u8::from_str_radix(text.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}

fn encode_piece(bpe: &BPE, pre: &pre::PreTokenizer, text: &str, ids: &mut Vec<u32>) {
    let mut words = PreTokenizedString::from(text);
    // Neither step can fail: the patterns are our own, and every byte-level character has an id or none.
    let split = pre.split(&mut words);
    let merged = split.and_then(|()| words.tokenize(|word| bpe.tokenize(word.get())));
    if let Err(error) = merged {
        tracing::error!(%error, "text could not be tokenized");
        return;
    }
    let words = words.get_splits(tokenizers::OffsetReferential::Original, OffsetType::Byte);
    ids.extend(words.iter().filter_map(|(_, _, tokens)| tokens.as_ref()).flatten().map(|token| token.id));
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
