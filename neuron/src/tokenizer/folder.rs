//! A tokenizer out of the tokenizer.json of a model's folder, with the ids of the library that wrote it.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;
use tokenizers::AddedToken;

use super::{
    END_OF_GENERATION, Scheme, Tokenizer, TokenizerError, added::Added, decoding::Decoding, library::Words,
    settings::Settings, vocab::Vocab,
};
use crate::folder::{self, FolderError, Problem};

pub(crate) const FILE: &str = "tokenizer.json";
/// The file is never longer; past it it is refused. The largest in use has 35 MB.
pub const MAX_TOKENIZER_BYTES: u64 = 128 << 20;
/// Bytes of text that all entries together stand for; the largest vocabularies have some 3 MB.
const MAX_PIECES: usize = 512 << 20;
/// Ids are below this; the largest vocabulary in use has 262,145.
const MAX_IDS: u64 = 1 << 22;

impl Tokenizer {
    /// Builds the tokenizer that tokenizer.json describes, with what the files beside it say of its tokens.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        let bytes = folder::bytes(folder, FILE, MAX_TOKENIZER_BYTES)?;
        let bytes = bytes.ok_or_else(|| Problem::Absent.of(FILE))?;
        let library = tokenizers::Tokenizer::from_bytes(&bytes);
        let mut library = library.map_err(|e| Problem::NotJson(e.to_string()).of(FILE))?;
        // Meant for training: texts here are as long as they are.
        library.with_padding(None);
        library.with_truncation(None).map_err(|e| Problem::Inconsistent(e.to_string()).of(FILE))?;
        drop(bytes);
        let settings = Settings::read(folder)?;
        let decoding = Decoding::new(library.get_decoder())?;

        let vocab = library.get_vocab(false);
        let rows = settings.rows.unwrap_or(MAX_IDS);
        if let Some(last) =
            vocab.values().max().copied().map(u64::from).filter(|last| *last >= rows.min(MAX_IDS))
        {
            let text = format!("it has the id {last}, but there are embeddings for {rows}");
            return Err(Problem::Inconsistent(text).of(FILE).into());
        }
        let tokens = tokens(&library, &settings, |id| u64::from(id) < rows.min(MAX_IDS));
        let ids = vocab.values().chain(tokens.keys()).max().map_or(0, |last| *last as usize + 1);
        let (mut texts, mut pieces) = (vec![String::new(); ids], vec![Box::<[u8]>::default(); ids]);
        let mut bytes = 0;
        for (text, id) in vocab {
            let piece = decoding.piece(&text);
            bytes += piece.len();
            if bytes > MAX_PIECES {
                let text = format!("its entries stand for more than {MAX_PIECES} bytes of text");
                return Err(Problem::Inconsistent(text).of(FILE).into());
            }
            pieces[id as usize] = piece;
            texts[id as usize] = text;
        }
        for (id, token) in &tokens {
            let piece = if is_control(token, &settings) {
                Box::default()
            } else {
                decoding.added_piece(&token.content)
            };
            pieces[*id as usize] = piece;
            texts[*id as usize].clone_from(&token.content);
        }
        let longest = longest(&library, &decoding, &pieces, &texts, &tokens);
        let vocab = Vocab::new(texts.into_iter().collect());
        let id = |text: &str| vocab.id(text);
        let start = start_of(&serde_json::to_value(library.get_post_processor()).unwrap_or_default());
        let bos = settings.bos.as_deref().or(start.as_deref());
        let add_bos = settings.add_bos.unwrap_or(start.is_some() && start.as_deref() == bos);
        let (bos, eos) = (bos.and_then(id), settings.eos.as_deref().and_then(id));
        let around = around(&library);
        Ok(Self {
            around,
            end: end(&vocab, eos, &settings),
            control: control(&tokens, &settings),
            scheme: Scheme::Library(Box::new(words(library, &tokens, &settings)?)),
            pieces: pieces.into_iter().collect(),
            bos,
            eos,
            add_bos,
            longest,
            leading_spaces: decoding.leading_spaces,
            vocab,
        })
    }
}

/// The tokens that are found by their spelling: those that were added, and those with a role.
fn tokens(
    library: &tokenizers::Tokenizer,
    settings: &Settings,
    has_row: impl Fn(u32) -> bool,
) -> BTreeMap<u32, AddedToken> {
    let mut tokens: BTreeMap<u32, AddedToken> = library.get_added_tokens_decoder().into_iter().collect();
    for name in &settings.named {
        if let Some(id) = library.token_to_id(name) {
            tokens.entry(id).or_insert_with(|| AddedToken::from(name.as_str(), true));
        }
    }
    tokens.retain(|id, token| has_row(*id) && !token.content.is_empty());
    tokens
}

/// Chat-tuned files often forget to say it of the tokens that their templates use.
fn is_control(token: &AddedToken, settings: &Settings) -> bool {
    let text = &token.content;
    token.special || settings.named.contains(text) || END_OF_GENERATION.contains(&text.as_str())
}

fn control(tokens: &BTreeMap<u32, AddedToken>, settings: &Settings) -> Vec<String> {
    let control = tokens.values().filter(|token| is_control(token, settings));
    control.map(|token| token.content.clone()).collect()
}

fn words(
    library: tokenizers::Tokenizer,
    tokens: &BTreeMap<u32, AddedToken>,
    settings: &Settings,
) -> Result<Words, FolderError> {
    let (mut added, mut normalized) = (Added::default(), Added::default());
    for (id, token) in tokens {
        let is_control = is_control(token, settings);
        match library.get_added_vocabulary().simple_id_to_token(*id) {
            Some(spelling) if token.normalized && !is_control => {
                normalized.insert(*id, token, &spelling, false);
            }
            _ => added.insert(*id, token, &token.content, is_control),
        }
    }
    Ok(Words::new(library, added, normalized))
}

fn end(vocab: &Vocab, eos: Option<u32>, settings: &Settings) -> Vec<u32> {
    let known = (0u32..).zip(vocab.texts().iter()).filter(|(_, text)| END_OF_GENERATION.contains(text));
    let told =
        settings.end.iter().filter(|id| **id < vocab.len() as u64).filter_map(|id| u32::try_from(*id).ok());
    let mut end: Vec<u32> = known.map(|(id, _)| id).chain(eos).chain(told).collect();
    end.sort_unstable();
    end.dedup();
    end
}

/// What a post-processor puts around a text.
fn around(library: &tokenizers::Tokenizer) -> [Box<[u32]>; 2] {
    let ids =
        |with| library.encode_fast("a", with).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default();
    let (all, text) = (ids(true), ids(false));
    // Files may ask for padding, too: what is around is what was put there once.
    let Some(at) = all.windows(text.len().max(1)).position(|part| part == text) else {
        return Default::default();
    };
    [all[..at].into(), all[at + text.len()..].into()]
}

/// The token that a post-processor puts in front of a text.
fn start_of(processor: &Value) -> Option<String> {
    if let Some(steps) = processor["processors"].as_array() {
        return steps.iter().find_map(start_of);
    }
    processor["single"][0]["SpecialToken"]["id"].as_str().map(str::to_owned)
}

/// Bytes of text that one token stands for at most.
fn longest(
    library: &tokenizers::Tokenizer,
    decoding: &Decoding,
    pieces: &[Box<[u8]>],
    texts: &[String],
    tokens: &BTreeMap<u32, AddedToken>,
) -> usize {
    // Such a token takes all the spaces beside it.
    let strips = tokens.values().any(|token| token.lstrip || token.rstrip);
    let Some(times) = shrinks(library, decoding).filter(|_| !strips) else {
        return usize::MAX;
    };
    // Unless its alphabet stands for bytes, an entry may be in a text as it is written: a space as U+2581 is
    // longer than one.
    let written = texts.iter().map(String::len).filter(|_| !decoding.is_byte_level);
    let spelled = tokens.values().map(|token| token.content.len());
    let lengths = pieces.iter().map(|piece| piece.len()).chain(written).chain(spelled);
    lengths.max().unwrap_or(0).saturating_mul(times)
}

/// How many times longer than its spelling a token's text may be at most. `None`: any number of times, since
/// characters are dropped, or unknown ones may be one token together.
fn shrinks(library: &tokenizers::Tokenizer, decoding: &Decoding) -> Option<usize> {
    let normalizer = serde_json::to_value(library.get_normalizer()).unwrap_or_default();
    let steps = match normalizer["normalizers"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(&normalizer),
    };
    let shrinks = |step: &Value| match step["type"].as_str() {
        None if step.is_null() => Some(1),
        Some("Prepend") => Some(1),
        // Three letters of Hangul, of three bytes each, become one of three bytes; nothing shrinks more.
        Some("NFC") => Some(3),
        Some("Replace") => {
            let content = step["content"].as_str().map_or(0, str::len);
            step["pattern"]["String"].as_str().filter(|pattern| pattern.len() <= content).map(|_| 1)
        }
        _ => None,
    };
    let times = steps.iter().map(shrinks).try_fold(1, |all: usize, step| step.map(|step| all * step))?;
    (decoding.is_byte_level || decoding.has_bytes).then_some(times)
}

#[cfg(test)]
mod tests;
