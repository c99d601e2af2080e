//! Which files make up a model in safetensors.

use std::path::Path;

use neuron_protocol::LoadError;

use super::hub;
use crate::{
    embeds,
    safetensors::{CONFIG, INDEX, WHOLE, shards},
    tokenizer,
};

/// What is read besides the weights, where the model has it.
const BESIDE: [&str; 8] = [
    tokenizer::FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    embeds::MODULES,
    embeds::POOLING,
    embeds::LENGTH,
];

/// What is fetched before the weights: config.json, what belongs to the text side, and the list of shards.
/// `files`: what the repository has.
pub(super) fn before_weights(id: &str, files: &[String]) -> Result<Vec<String>, LoadError> {
    let has = |name: &str| files.iter().any(|file| file == name);
    if !has(tokenizer::FILE) {
        return Err(hub::failed(id, &"it has no tokenizer.json, and other tokenizers cannot be read"));
    }
    let index = (!has(WHOLE)).then_some(INDEX);
    let wanted = [CONFIG].into_iter().chain(BESIDE.into_iter().filter(|file| has(file))).chain(index);
    Ok(wanted.map(str::to_owned).collect())
}

/// The files of weights, once the others are there.
pub(super) fn weights(id: &str, folder: &Path, files: &[String]) -> Result<Vec<String>, LoadError> {
    if files.iter().any(|file| file == WHOLE) {
        return Ok(vec![WHOLE.to_owned()]);
    }
    let shards = shards(folder).map_err(|e| LoadError::InvalidFile {
        model_id: id.to_owned(),
        file: e.file.clone(),
        cause: e.to_string(),
    })?;
    Ok(shards.unwrap_or_default())
}
