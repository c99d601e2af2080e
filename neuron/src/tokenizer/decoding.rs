//! Vocabulary entries to the bytes of text that they stand for, as a tokenizer.json's decoder says it.

use serde_json::Value;
use tokenizers::decoders::DecoderWrapper;

use super::{TokenizerError, bytes};

/// What a decoder does to each entry by itself. One whose result depends on neighbours is not taken: what it
/// gives could not be sent while it comes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decoding {
    /// Entries are in the byte-level alphabet.
    pub(super) is_byte_level: bool,
    /// `<0x41>` is the byte 0x41.
    pub(super) has_bytes: bool,
    replaced: Vec<(String, String)>,
    /// What an entry starts with that goes on with the word before it; all others have a space in front.
    continues: Option<String>,
    /// Spaces that go at the start of the whole.
    pub(super) leading_spaces: usize,
    /// What comes after is done to the whole and not to entries.
    is_whole: bool,
}

impl Decoding {
    pub(super) fn new(decoder: Option<&DecoderWrapper>) -> Result<Self, TokenizerError> {
        let unsupported = |name: &str| TokenizerError::Unsupported(name.to_owned());
        let decoder = decoder.ok_or_else(|| unsupported("without a decoder"))?;
        let value = serde_json::to_value(decoder).map_err(|e| unsupported(&e.to_string()))?;
        let mut decoding = Self::default();
        decoding.add(&value).map_err(|name| unsupported(&name))?;
        Ok(decoding)
    }

    /// An error names what is not known here.
    fn add(&mut self, step: &Value) -> Result<(), String> {
        let text = |key: &str| step[key].as_str().unwrap_or_default();
        match text("type") {
            "Sequence" => {
                let steps = step["decoders"].as_array().map(Vec::as_slice).unwrap_or_default();
                steps.iter().try_for_each(|step| self.add(step))?;
            }
            "ByteLevel" => self.is_byte_level = true,
            "ByteFallback" => self.has_bytes = true,
            "Fuse" => self.is_whole = true,
            "Replace" => {
                let pattern = step["pattern"]["String"].as_str().ok_or("Replace by a pattern")?;
                self.replaced.push((pattern.to_owned(), text("content").to_owned()));
            }
            "WordPiece" => {
                self.continues = Some(text("prefix").to_owned());
                self.leading_spaces = 1;
            }
            "Strip" if self.is_whole && text("content") == " " && step["stop"] == 0 => {
                self.leading_spaces = step["start"].as_u64().and_then(|n| n.try_into().ok()).unwrap_or(0);
            }
            "Metaspace" => {
                self.replaced.push((text("replacement").to_owned(), " ".to_owned()));
                self.leading_spaces = usize::from(text("prepend_scheme") != "never");
            }
            other => return Err(other.to_owned()),
        }
        Ok(())
    }

    /// Of an entry of the model's own vocabulary.
    pub(super) fn piece(&self, entry: &str) -> Box<[u8]> {
        if let Some(byte) = byte_of(entry).filter(|_| self.has_bytes) {
            return [byte].into();
        }
        if let Some(continues) = &self.continues {
            let rest = entry.strip_prefix(continues.as_str());
            return rest.map_or_else(|| format!(" {entry}"), str::to_owned).into_bytes().into();
        }
        let mut text = entry.to_owned();
        for (pattern, content) in self.replaced.iter().filter(|(pattern, _)| !pattern.is_empty()) {
            text = text.replace(pattern, content);
        }
        if self.is_byte_level { bytes::to_bytes(&text).into() } else { text.into_bytes().into() }
    }

    /// Of a token that was added to the vocabulary, which is spelled as it is.
    pub(super) fn added_piece(&self, spelling: &str) -> Box<[u8]> {
        if self.is_byte_level { spelling.as_bytes().into() } else { self.piece(spelling) }
    }
}

/// `<0x41>`
fn byte_of(entry: &str) -> Option<u8> {
    let digits = entry.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}
