//! Text to token ids and back, out of a GGUF header or of the tokenizer.json in a model's folder.

mod added;
mod bpe;
mod bytes;
mod decoding;
mod folder;
mod gguf;
mod guard;
mod library;
mod memory;
mod merge;
mod pre;
mod settings;
mod special;
mod spellings;
mod spm;
mod stream;
mod vocab;

pub(crate) use folder::FILE;
pub use folder::MAX_TOKENIZER_BYTES;
pub use guard::{Guard, MARK, Marked};
pub use stream::TextStream;

use vocab::Vocab;

use crate::{folder::FolderError, gguf::GgufError, packed::Pieces};

/// Bytes of text that are split at once, or a word more: the splitter needs some 300 bytes for each.
const PIECE_BYTES: usize = 16 << 10;

/// Tokens that end an answer whatever the model's files say of them: chat-tuned files often name only one
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

/// Why a model's files yield no tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The scheme has no rule here: the model, pre-tokenizer or decoder by name.
    #[error("tokenizer {0:?} is not supported")]
    Unsupported(String),
    #[error(transparent)]
    File(#[from] GgufError),
    #[error(transparent)]
    Folder(#[from] FolderError),
}

/// Every tokenizer that is taken out of a GGUF file: the pre-tokenizers of byte-level vocabularies, and
/// SentencePiece's own.
pub fn supported() -> Vec<String> {
    pre::names().chain([gguf::SPM]).map(str::to_owned).collect()
}

/// One model's tokenizer.
pub struct Tokenizer {
    scheme: Scheme,
    /// What each id stands for as bytes of text; empty for control tokens.
    pieces: Pieces,
    /// Spellings of control tokens.
    control: Vec<String>,
    end: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    /// Bytes of text that one token stands for at most.
    longest: usize,
    /// Spaces that a text gets in front before it is split, and that go again.
    leading_spaces: usize,
    /// What stands before and after a text of which a vector is made.
    around: [Box<[u32]>; 2],
    vocab: Vocab,
}

/// How text becomes ids.
enum Scheme {
    Gguf(Box<gguf::Words>),
    Library(Box<library::Words>),
}

/// What the spelling of a control token in a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Control {
    IsToken,
    IsText,
    /// A token, except where a [`Guard`] has marked it. The marks go.
    Guarded,
}

impl Tokenizer {
    /// Ids of `text`. Special tokens in it count as such; nothing is put in front.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.scheme.encode(&self.vocab, text, Control::IsToken)
    }

    /// As [`Self::encode`], but the spelling of a control token is text like any other.
    pub fn encode_literal(&self, text: &str) -> Vec<u32> {
        self.scheme.encode(&self.vocab, text, Control::IsText)
    }

    /// As [`Self::encode`], with the start token in front where the model wants one and the text has none.
    pub fn encode_prompt(&self, text: &str) -> Vec<u32> {
        self.with_start(self.encode(text))
    }

    /// As [`Self::encode_prompt`], for text in which a [`Guard`] has marked what is no control token. The
    /// marks go, and ids of the text around them are those that it has without.
    pub fn encode_guarded(&self, text: &str) -> Vec<u32> {
        self.with_start(self.scheme.encode(&self.vocab, text, Control::Guarded))
    }

    /// Ids of a text of which a vector is made, with what the model wants around it; `most`: as many as that in all.
    pub fn encode_passage(&self, text: &str, most: Option<usize>) -> Vec<u32> {
        let [before, after] = &self.around;
        let room = most.map_or(usize::MAX, |most| most.saturating_sub(before.len() + after.len()));
        let within = self.encode_literal(text);
        let within = within.into_iter().take(room);
        before.iter().copied().chain(within).chain(after.iter().copied()).collect()
    }

    /// What keeps texts of others from spelling this model's control tokens.
    pub fn guard(&self) -> Guard {
        Guard::new(self.control.clone())
    }

    pub(crate) fn with_start(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if let Some(bos) = self.bos.filter(|bos| self.add_bos && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        ids
    }

    /// Bytes of text that the id stands for; empty for control tokens and ids out of range.
    pub fn piece(&self, id: u32) -> &[u8] {
        self.pieces.get(id as usize).unwrap_or_default()
    }

    /// The id as the vocabulary spells it, control tokens too; empty out of range.
    pub fn spelling_of(&self, id: u32) -> &str {
        self.vocab.text(id).unwrap_or_default()
    }

    /// The control token that is spelled so.
    pub fn control_id(&self, spelling: &str) -> Option<u32> {
        self.control.iter().any(|control| control == spelling).then_some(())?;
        self.id_of(spelling).filter(|id| self.piece(*id).is_empty())
    }

    /// The token that the vocabulary spells so.
    pub fn id_of(&self, spelling: &str) -> Option<u32> {
        self.vocab.id(spelling)
    }

    /// Text of a whole run of ids; what is not UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.piece(*id)).copied().collect();
        let spaces = bytes.iter().take(self.leading_spaces).take_while(|byte| **byte == b' ').count();
        String::from_utf8_lossy(&bytes[spaces..]).into_owned()
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
        id.map_or("", |id| self.spelling_of(id))
    }

    /// Tokens that `bytes` of text have at least.
    pub fn fewest(&self, bytes: usize) -> usize {
        bytes.div_ceil(self.longest.max(1))
    }

    /// Bytes of memory, about.
    pub(crate) fn held_bytes(&self) -> usize {
        let words = match &self.scheme {
            Scheme::Gguf(words) => words.held_bytes(),
            Scheme::Library(words) => words.held_bytes(),
        };
        words + self.vocab.held_bytes() + self.pieces.held_bytes()
    }

    /// Number of ids.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }
}

impl Scheme {
    fn encode(&self, vocab: &Vocab, text: &str, control: Control) -> Vec<u32> {
        match self {
            Self::Gguf(words) => words.encode(vocab, text, control),
            Self::Library(words) => words.encode(text, control),
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab.len()).finish_non_exhaustive()
    }
}
