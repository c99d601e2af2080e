//! Text to ids by the parts of a tokenizer.json, in the order in which the tokenizers library runs them.
//!
//! That library finds added tokens itself and puts everything else after; here they are found first by
//! [`Added`], so that what users write can be kept from spelling control tokens, and the library's parts get
//! the text between.

use serde_json::Value;
use tokenizers::{
    Model as _, ModelWrapper, NormalizedString, Normalizer as _, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer as _, Token, normalizer::Range,
};

use super::{
    Control, MARK, PIECE_BYTES,
    added::Added,
    memory::{allocated, table_bytes},
    pre,
};

/// How text becomes ids.
pub(super) struct Words {
    library: tokenizers::Tokenizer,
    /// Found in the text as it is: all control tokens, whatever the file says of them. A normalizer may make
    /// the spelling of one out of a text that is none.
    added: Added,
    /// Found in the text once it is normalized; none is a control token.
    normalized: Added,
    /// Long texts are split in pieces, with the ids that they have as a whole.
    is_cut: bool,
}

impl Words {
    pub(super) fn new(library: tokenizers::Tokenizer, added: Added, normalized: Added) -> Self {
        let is_cut = splits_words(&library) && !normalized.has_space();
        Self { library, added, normalized, is_cut }
    }

    /// The library does not say it: what its tables of the vocabulary and of the merges take.
    pub(super) fn held_bytes(&self) -> usize {
        let model = self.library.get_model();
        let vocab = model.get_vocab();
        let texts: usize = vocab.keys().map(|text| allocated(text.len())).sum();
        let characters: usize = vocab.keys().map(String::len).sum();
        let strings = |times: usize| times * (table_bytes(vocab.len(), size_of::<(String, u32)>()) + texts);
        match model {
            // About as many merges as entries.
            ModelWrapper::BPE(_) => strings(2) + table_bytes(vocab.len(), size_of::<[u32; 4]>()),
            ModelWrapper::WordPiece(_) | ModelWrapper::WordLevel(_) => strings(2),
            // And a tree of all characters, each with a table of its own.
            ModelWrapper::Unigram(_) => strings(2) + characters * 100,
        }
    }

    pub(super) fn encode(&self, text: &str, control: Control) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 8);
        for (range, token) in self.added.split(text, control != Control::IsText) {
            let (part, is_start) = (&text[range.clone()], range.start == 0);
            match token {
                Some(id) => ids.push(id),
                None if control == Control::Guarded && part.contains(MARK) => {
                    self.encode_literal(&part.replace(MARK, ""), is_start, &mut ids);
                }
                None => self.encode_plain(part, is_start, &mut ids),
            }
        }
        ids
    }

    fn encode_literal(&self, text: &str, is_start: bool, ids: &mut Vec<u32>) {
        for (range, token) in self.added.split(text, false) {
            let is_start = is_start && range.start == 0;
            match token {
                Some(id) => ids.push(id),
                None => self.encode_plain(&text[range], is_start, ids),
            }
        }
    }

    /// `is_start`: of the whole text, where some vocabularies put a space in front.
    fn encode_plain(&self, text: &str, is_start: bool, ids: &mut Vec<u32>) {
        let (mut rest, mut is_start) = (text, is_start);
        while !rest.is_empty() {
            let (piece, after) = if self.is_cut { pre::cut(rest, PIECE_BYTES) } else { (rest, "") };
            // A file whose parts do not fit together shows here: an unknown character without a token for it, say.
            if let Err(error) = self.encode_piece(piece, is_start, ids) {
                tracing::error!(%error, "text could not be tokenized");
            }
            (rest, is_start) = (after, false);
        }
    }

    fn encode_piece(&self, text: &str, is_start: bool, ids: &mut Vec<u32>) -> tokenizers::Result<()> {
        let mut words = PreTokenizedString::from(placed(text, is_start));
        if let Some(normalizer) = self.library.get_normalizer() {
            words.normalize(|text| normalizer.normalize(text))?;
        }
        words.split(|_, text| {
            let stretches = self.normalized.split(text.get(), true);
            Ok(stretches.into_iter().filter_map(move |(range, id)| {
                let token = |id| vec![Token::new(id, String::new(), (0, range.len()))];
                Some((text.slice(Range::Normalized(range.clone()))?, id.map(token)))
            }))
        })?;
        if let Some(pre_tokenizer) = self.library.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut words)?;
        }
        words.tokenize(|word| self.library.get_model().tokenize(word.get()))?;
        let words = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
        ids.extend(words.iter().filter_map(|(_, _, tokens)| tokens.as_ref()).flatten().map(|token| token.id));
        Ok(())
    }
}

/// A text that stands at the start of the whole, or somewhere behind it.
fn placed(text: &str, is_start: bool) -> NormalizedString {
    if is_start {
        return text.into();
    }
    // A part of a longer one knows that something is before it, and that is all that is asked of it.
    let behind = NormalizedString::from(format!(" {text}"));
    behind.slice(Range::Original(1..)).unwrap_or_else(|| text.into())
}

/// The text is split into words by rules that are known to split it alike in pieces: see [`pre::cut`].
fn splits_words(library: &tokenizers::Tokenizer) -> bool {
    let json = |part: Result<Value, serde_json::Error>| part.unwrap_or_default();
    let normalizer = json(serde_json::to_value(library.get_normalizer()));
    if !normalizer.is_null() && normalizer["type"] != "NFC" {
        return false;
    }
    let pre = json(serde_json::to_value(library.get_pre_tokenizer()));
    let steps = match pre["pretokenizers"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(&pre),
    };
    let known = |step: &Value| match step["type"].as_str() {
        Some("ByteLevel") => step["add_prefix_space"] == false,
        Some("Split") => {
            let rule = step["pattern"]["Regex"].as_str();
            rule.is_some_and(pre::is_rule) && step["behavior"] == "Isolated" && step["invert"] == false
        }
        Some("Digits") => true,
        _ => false,
    };
    let splits = |step: &Value| {
        step["use_regex"] == true || step["pattern"]["Regex"].as_str().is_some_and(pre::is_whole_rule)
    };
    steps.iter().all(known) && steps.iter().any(splits)
}
