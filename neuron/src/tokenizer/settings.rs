//! What the files beside tokenizer.json say of a model's tokens.

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;

use crate::{
    folder::{FolderError, Object, optional_json},
    safetensors::CONFIG,
};

#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) bos: Option<String>,
    pub(super) eos: Option<String>,
    /// A prompt starts with the start token; `None`: not told.
    pub(super) add_bos: Option<bool>,
    /// Tokens with a role, by their spellings.
    pub(super) named: BTreeSet<String>,
    /// Ids that end an answer.
    pub(super) end: Vec<u64>,
    /// Rows of the embeddings; a token past them cannot be given to the model.
    pub(super) rows: Option<u64>,
}

impl Settings {
    pub(super) fn read(folder: &Path) -> Result<Self, FolderError> {
        let mut settings = Self::default();
        // The first that says it counts.
        for file in ["tokenizer_config.json", "special_tokens_map.json"] {
            if let Some(json) = optional_json(folder, file)? {
                settings.take_names(&json.root())?;
            }
        }
        for file in ["generation_config.json", CONFIG] {
            if let Some(json) = optional_json(folder, file)? {
                settings.take_ids(&json.root())?;
            }
        }
        Ok(settings)
    }

    fn take_names(&mut self, root: &Object<'_>) -> Result<(), FolderError> {
        let one = |key: &str| root.get(key).and_then(spelling).map(str::to_owned);
        self.bos = self.bos.take().or_else(|| one("bos_token"));
        self.eos = self.eos.take().or_else(|| one("eos_token"));
        self.add_bos = self.add_bos.or(root.optional_flag("add_bos_token")?);
        for (key, value) in root.entries() {
            match value {
                Value::Array(several) if key.ends_with("_special_tokens") => {
                    self.named.extend(several.iter().filter_map(spelling).map(str::to_owned));
                }
                Value::Object(several) if key == "extra_special_tokens" => {
                    self.named.extend(several.values().filter_map(spelling).map(str::to_owned));
                }
                Value::Object(by_id) if key == "added_tokens_decoder" => {
                    let special = by_id.values().filter(|token| token["special"] == true);
                    self.named.extend(special.filter_map(spelling).map(str::to_owned));
                }
                one if key.ends_with("_token") => self.named.extend(spelling(one).map(str::to_owned)),
                _ => {}
            }
        }
        Ok(())
    }

    fn take_ids(&mut self, root: &Object<'_>) -> Result<(), FolderError> {
        let text = root.optional_object("text_config")?;
        for part in [Some(root), text.as_ref()].into_iter().flatten() {
            match part.get("eos_token_id") {
                Some(Value::Array(ids)) => self.end.extend(ids.iter().filter_map(Value::as_u64)),
                Some(id) => self.end.extend(id.as_u64()),
                None => {}
            }
            self.rows = part.optional_number("vocab_size")?.or(self.rows);
        }
        Ok(())
    }
}

/// A token is its spelling, or an object that has it.
fn spelling(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str()).filter(|text| !text.is_empty())
}
