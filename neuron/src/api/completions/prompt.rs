//! Prompts of plain completions.

use serde_json::Value;

use crate::{
    api::{
        error::ApiError,
        fields::{Fields, missing, wrong_type},
    },
    registry::Ready,
    tokenizer::Tokenizer,
};

/// Answers to all prompts of a request.
const MAX_ANSWERS: usize = 128;

pub(super) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

/// A text or token ids, or an array of such; `answers` to each.
pub(super) fn prompts(
    fields: Fields<'_>,
    tokenizer: &Tokenizer,
    answers: usize,
) -> Result<Vec<Prompt>, ApiError> {
    let prompt = fields.get("prompt").ok_or_else(|| missing("prompt"))?;
    let several = match prompt {
        Value::Array(items) if items.first().is_some_and(|item| !item.is_number()) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    if several.len() * answers > MAX_ANSWERS {
        let text = format!(
            "prompt: {} prompts with {answers} answers each, where at most {MAX_ANSWERS} answers are given to one request",
            several.len()
        );
        return Err(ApiError::invalid("prompt", "invalid_value", text));
    }
    several.iter().map(|prompt| one(prompt, tokenizer)).collect()
}

fn one(prompt: &Value, tokenizer: &Tokenizer) -> Result<Prompt, ApiError> {
    let expected = "a string, an array of token ids, or an array of either";
    match prompt {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(ids) => {
            let known = |id: &Value| {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                id.filter(|id| (*id as usize) < tokenizer.vocab_size())
            };
            let ids = ids.iter().map(|id| known(id).ok_or_else(|| wrong_type("prompt", expected, id)));
            Ok(Prompt::Ids(ids.collect::<Result<_, _>>()?))
        }
        other => Err(wrong_type("prompt", expected, other)),
    }
}

/// What models that fill in were trained on: the marks of what is before, of what is after, and of what is between.
const MARKS: [[&str; 3]; 4] = [
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
];

/// A prompt that has the model write what stands between two texts.
pub(super) fn middle(ready: &Ready, before: &str, after: &str) -> Result<Vec<u32>, ApiError> {
    let tokenizer = &ready.text.tokenizer;
    let found = MARKS.iter().find_map(|marks| {
        let [before, after, between] = marks.map(|mark| tokenizer.id_of(mark));
        Some([before?, after?, between?])
    });
    let Some([prefix, suffix, between]) = found else {
        let text = format!("suffix: {} was not made to fill in: it has no tokens for it", ready.id);
        return Err(ApiError::invalid("suffix", "unsupported_parameter", text));
    };
    let mut ids = vec![prefix];
    ids.extend(tokenizer.encode(before));
    ids.push(suffix);
    ids.extend(tokenizer.encode(after));
    ids.push(between);
    Ok(tokenizer.with_start(ids))
}
