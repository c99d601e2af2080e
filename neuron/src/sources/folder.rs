//! Fetching a model in safetensors, file by file.

use std::path::{Path, PathBuf};

use neuron_protocol::{LoadError, model_id::ModelId};

use super::hub;
use crate::{
    config::Source,
    embeds,
    progress::Progress,
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

/// Downloads config.json, what belongs to the text side and all weights into the cache, and returns the folder
/// that they lie in. `files`: what the repository has.
pub(super) async fn fetch(
    id: &str,
    parts: &ModelId<'_>,
    source: &Source,
    files: &[String],
    progress: &Progress,
) -> Result<PathBuf, LoadError> {
    let has = |name: &str| files.iter().any(|file| file == name);
    if !has(tokenizer::FILE) {
        return Err(hub::failed(id, &"it has no tokenizer.json, and other tokenizers cannot be read"));
    }
    let config = hub::fetch(id, parts, source, CONFIG, progress).await?;
    let folder = config.parent().map(Path::to_owned).unwrap_or_default();
    // The folder is named after the commit. What is fetched after is of the same, even if the branch moves on.
    let commit = folder.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let pinned = ModelId { revision: commit.as_deref().or(parts.revision), ..*parts };
    let fetch = async |file: &str| hub::fetch(id, &pinned, source, file, progress).await;
    for file in BESIDE.into_iter().filter(|file| has(file)) {
        fetch(file).await?;
    }
    if has(WHOLE) {
        fetch(WHOLE).await?;
        return Ok(folder);
    }
    fetch(INDEX).await?;
    let shards = shards(&folder).map_err(|e| LoadError::InvalidFile {
        model_id: id.to_owned(),
        file: e.file.clone(),
        cause: e.to_string(),
    })?;
    for shard in shards.unwrap_or_default() {
        fetch(&shard).await?;
    }
    Ok(folder)
}
