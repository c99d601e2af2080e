//! A tokenizer out of a GGUF header.
//!
//! Ids are llama.cpp's: the same split into words, the same merges, special tokens found the same way.
//! Byte-level BPE vocabularies are taken with a known pre-tokenizer alone, for guessing would split text
//! wrongly without a sign of it; SentencePiece's have none.

use std::cmp::Reverse;

use super::{
    Control, END_OF_GENERATION, MARK, PIECE_BYTES, Scheme, Tokenizer, TokenizerError,
    bpe::Bpe,
    bytes,
    merge::Merger,
    pre,
    special::{Fragment, Special, fragments},
    spm::{SPACE, Spm},
    vocab::Vocab,
};
use crate::{
    gguf::{GgufError, Header},
    packed::Pieces,
};

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
        bpe: Bpe,
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
    vocab: &'h Vocab,
    kinds: &'h [i64],
    /// What ends an answer, by its spelling.
    end: Vec<u32>,
}

impl Tokenizer {
    /// Builds the tokenizer that the header describes.
    pub fn from_header(header: &Header) -> Result<Self, TokenizerError> {
        let vocab = Vocab::new(header.texts("tokenizer.ggml.tokens")?.clone());
        let texts = vocab.texts();
        let kinds = header.numbers("tokenizer.ggml.token_type")?.unwrap_or(&[]);
        // All that are spelled so, should there be several; each begins with one of two characters.
        let is_end = |text: &str| text.starts_with(['<', '_']) && END_OF_GENERATION.contains(&text);
        let mut end: Vec<u32> =
            (0u32..).zip(texts.iter()).filter(|(_, text)| is_end(text)).map(|(id, _)| id).collect();
        let tokens = Tokens { vocab: &vocab, kinds, end: end.clone() };
        let (merges, adds_bos) = match header.text("tokenizer.ggml.model")? {
            "gpt2" => tokens.bpe(header)?,
            SPM => (tokens.spm(header)?, true),
            other => return Err(TokenizerError::Unsupported(other.to_owned())),
        };
        let mut pieces = Pieces::with_capacity(texts.len());
        texts.iter().enumerate().for_each(|(id, text)| merges.add_piece(text, tokens.kind(id), &mut pieces));

        let mut special = Vec::new();
        for (id, text) in (0u32..).zip(texts.iter()) {
            let kind = tokens.kind(id as usize);
            if matches!(kind, UNKNOWN | CONTROL | USER_DEFINED) && !text.is_empty() {
                special.push(Special { text: text.to_owned(), id, is_control: kind != USER_DEFINED });
            }
        }
        let spellings = special.iter().map(|special| special.text.len());
        // A space of SentencePiece's is longer as it is written, and so it may be in a text, too.
        let written = texts.iter().map(str::len).filter(|_| matches!(merges, Merges::Spm { .. }));
        let lengths = pieces.iter().map(<[u8]>::len).chain(spellings).chain(written);
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
        let adds_eos = header.flag("tokenizer.ggml.add_eos_token").unwrap_or(false);
        let around = [bos.filter(|_| add_bos), eos.filter(|_| adds_eos)].map(|id| id.into_iter().collect());
        Ok(Self { scheme, pieces, control, end, bos, eos, add_bos, longest, leading_spaces, around, vocab })
    }
}

impl Tokens<'_> {
    /// What ends an answer is a control token, whatever the file says: no user's text may hold it.
    fn kind(&self, id: usize) -> i64 {
        match self.end.iter().any(|end| *end as usize == id) {
            true => CONTROL,
            false => self.kinds.get(id).copied().unwrap_or(NORMAL),
        }
    }

    /// With whether a prompt starts with the start token where the file does not say.
    fn bpe(&self, header: &Header) -> Result<(Merges, bool), TokenizerError> {
        // llama.cpp, too, takes a file without the key for the oldest rule, but warns that it guesses.
        let name = header.optional_text("tokenizer.ggml.pre")?.unwrap_or("(none named)");
        let rule = pre::rule(name).ok_or_else(|| TokenizerError::Unsupported(name.to_owned()))?;
        let bpe = Bpe::new(self.vocab, header.texts("tokenizer.ggml.merges")?, rule.ignores_merges)?;
        Ok((Merges::Bpe { bpe, pre: rule.compile() }, rule.adds_bos))
    }

    fn spm(&self, header: &Header) -> Result<Merges, TokenizerError> {
        let scores = header.floats("tokenizer.ggml.scores")?;
        let count = self.vocab.len();
        if scores.len() != count || scores.iter().any(|score| score.is_nan()) {
            let what = format!("{count} tokens have {} scores, or one is no number", scores.len());
            return Err(GgufError::Inconsistent(what).into());
        }
        // As in SentencePiece, and unlike in llama.cpp, no text merges into a control token.
        let is_piece = |id: usize| !matches!(self.kind(id), UNKNOWN | CONTROL | BYTE);
        let unknown = header.optional_number("tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
        let mut bytes = Box::new([u32::try_from(unknown).unwrap_or(0); 256]);
        for (id, text) in (0u32..).zip(self.vocab.texts().iter()).filter(|(_, text)| text.starts_with("<0x"))
        {
            if let Some(value) = byte(text).filter(|byte| *text == format!("<0x{byte:02X}>")) {
                bytes[usize::from(value)] = id;
            }
        }
        if bytes.iter().any(|id| *id as usize >= count) {
            let what = "tokenizer.ggml.unknown_token_id is past the vocabulary".to_owned();
            return Err(GgufError::Inconsistent(what).into());
        }
        let pieces = self.vocab.texts().iter().zip(0u32..).zip(scores.iter());
        let pieces = pieces.filter(|((text, id), _)| !text.is_empty() && is_piece(*id as usize));
        let spm = Spm::new(pieces.map(|((text, id), score)| (text, id, *score)), bytes);
        Ok(Merges::Spm { spm, adds_space: header.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true) })
    }
}

impl Words {
    pub(super) fn held_bytes(&self) -> usize {
        match &self.merges {
            Merges::Bpe { bpe, .. } => bpe.held_bytes(),
            Merges::Spm { spm, .. } => spm.held_bytes(),
        }
    }

    pub(super) fn encode(&self, vocab: &Vocab, text: &str, control: Control) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 8);
        self.encode_fragments(vocab, text, control, &mut true, &mut ids);
        ids
    }

    /// `starts`: nothing or a special token is before the text.
    fn encode_fragments(
        &self,
        vocab: &Vocab,
        text: &str,
        control: Control,
        starts: &mut bool,
        ids: &mut Vec<u32>,
    ) {
        for fragment in fragments(&self.special, text, control != Control::IsText) {
            match fragment {
                Fragment::Special(id) => {
                    ids.push(id);
                    *starts = true;
                }
                Fragment::Text(text) if control == Control::Guarded && text.contains(MARK) => {
                    let text = text.replace(MARK, "");
                    self.encode_fragments(vocab, &text, Control::IsText, starts, ids);
                }
                Fragment::Text(text) => self.merges.encode(vocab, text, std::mem::take(starts), ids),
            }
        }
    }
}

impl Merges {
    fn encode(&self, vocab: &Vocab, text: &str, starts: bool, ids: &mut Vec<u32>) {
        match self {
            Self::Bpe { bpe, pre } => {
                let (mut rest, mut merger) = (text, Merger::new());
                while !rest.is_empty() {
                    let (piece, after) = pre::cut(rest, PIECE_BYTES);
                    pre.each_word(piece, |word| bpe.encode(vocab, word, &mut merger, ids));
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
    fn add_piece(&self, text: &str, kind: i64, pieces: &mut Pieces) {
        match (self, kind) {
            (_, CONTROL | UNKNOWN) => pieces.push([]),
            (_, USER_DEFINED) => pieces.push(text.bytes()),
            (Self::Bpe { .. }, _) => pieces.push(bytes::to_bytes(text)),
            (Self::Spm { .. }, BYTE) => pieces.push(byte(text)),
            (Self::Spm { .. }, _) => pieces.push(text.replace(SPACE, " ").into_bytes()),
        }
    }
}

/// The byte that `<0x41>` spells.
fn byte(text: &str) -> Option<u8> {
    u8::from_str_radix(text.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}
