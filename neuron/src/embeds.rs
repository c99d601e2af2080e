//! How a model makes one vector of a text, by the files that sentence-transformers keeps beside it.

use std::path::Path;

use serde_json::Value;

use crate::{
    engine::{Pooling, encoder_types},
    folder::{FolderError, MAX_JSON_BYTES, Problem, bytes, optional_json},
    gguf::{GgufError, Header},
    safetensors::CONFIG,
};

/// Where a folder's parts are listed, and what the second one is.
pub(crate) const MODULES: &str = "modules.json";
pub(crate) const POOLING: &str = "1_Pooling/config.json";
pub(crate) const LENGTH: &str = "sentence_bert_config.json";

/// What a model that makes vectors does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Embeds {
    pub(crate) pooling: Pooling,
    /// Vectors have the length 1.
    pub(crate) is_normalized: bool,
    /// Tokens of a text, where that is fewer than the model has positions for.
    pub(crate) longest: Option<u64>,
    /// How many of its numbers a vector may be cut to.
    pub(crate) dimensions: Dimensions,
}

/// What a vector may be cut to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dimensions {
    Whole,
    Any,
    Some(Vec<u64>),
}

impl Embeds {
    /// `None`: the folder's model is for text alone.
    pub(crate) fn from_folder(folder: &Path) -> Result<Option<Self>, FolderError> {
        let Some(config) = optional_json(folder, CONFIG)? else { return Ok(None) };
        // A list, where all other files are objects.
        let modules = match bytes(folder, MODULES, MAX_JSON_BYTES)? {
            None => None,
            Some(bytes) => {
                let list = serde_json::from_slice::<Vec<Value>>(&bytes);
                Some(list.map_err(|e| Problem::NotJson(e.to_string()).of(MODULES))?)
            }
        };
        let pooling = optional_json(folder, POOLING)?;
        let kind = config.root().optional_text("model_type")?.unwrap_or_default();
        // They make vectors whether such files are there or not.
        let encodes = encoder_types().any(|encoder| encoder == kind);
        if modules.is_none() && pooling.is_none() && !encodes {
            return Ok(None);
        }
        let types = modules.iter().flatten();
        let types: Vec<&str> = types.filter_map(|module| module["type"].as_str()).collect();
        let known =
            |kind: &str| ["Transformer", "Pooling", "Normalize"].iter().any(|end| kind.ends_with(end));
        if let Some(other) = types.iter().find(|kind| !known(kind)) {
            return Err(
                Problem::Inconsistent(format!("it has a {other}, which neuron does not compute")).of(MODULES)
            );
        }
        let pooling = match &pooling {
            Some(json) => pooling_of(json.value())?,
            // What sentence-transformers does without being told.
            None if encodes => Pooling::Mean,
            None => Pooling::Last,
        };
        let longest = match optional_json(folder, LENGTH)? {
            Some(json) => json.root().optional_number("max_seq_length")?.filter(|longest| *longest > 0),
            None => None,
        };
        // Without the list nothing is said against it, and what compares vectors mostly wants it so.
        let is_normalized = modules.is_none() || types.iter().any(|kind| kind.ends_with("Normalize"));
        let dimensions = match config.root().get("matryoshka_dimensions").and_then(Value::as_array) {
            Some(some) => Dimensions::Some(some.iter().filter_map(Value::as_u64).collect()),
            None if config.root().get("is_matryoshka") == Some(&Value::Bool(true)) => Dimensions::Any,
            None => Dimensions::Whole,
        };
        Ok(Some(Self { pooling, is_normalized, longest, dimensions }))
    }

    /// `None`: the file's model is for text alone.
    pub(crate) fn from_header(header: &Header) -> Result<Option<Self>, GgufError> {
        let key = format!("{}.pooling_type", header.text("general.architecture")?);
        let pooling = match header.optional_number(&key)? {
            Some(1) => Pooling::Mean,
            Some(2) => Pooling::First,
            Some(3) => Pooling::Last,
            _ => return Ok(None),
        };
        Ok(Some(Self { pooling, is_normalized: true, longest: None, dimensions: Dimensions::Whole }))
    }

    /// A text's vector as it is given out: `dimensions` of it, where that is asked for.
    pub(crate) fn finish(&self, mut vector: Vec<f32>, dimensions: Option<usize>) -> Vec<f32> {
        vector.truncate(dimensions.unwrap_or(usize::MAX));
        if self.is_normalized {
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            let by = if length > 0.0 { length.recip() } else { 0.0 };
            vector.iter_mut().for_each(|x| *x *= by);
        }
        vector
    }
}

fn pooling_of(config: &Value) -> Result<Pooling, FolderError> {
    let modes = [
        ("pooling_mode_mean_tokens", Some(Pooling::Mean)),
        ("pooling_mode_cls_token", Some(Pooling::First)),
        ("pooling_mode_lasttoken", Some(Pooling::Last)),
        ("pooling_mode_max_tokens", None),
        ("pooling_mode_mean_sqrt_len_tokens", None),
        ("pooling_mode_weightedmean_tokens", None),
    ];
    let mut on = modes.into_iter().filter(|(key, _)| config[*key] == true);
    match (on.next(), on.next()) {
        (Some((_, Some(pooling))), None) => Ok(pooling),
        (Some((key, None)), _) => {
            Err(Problem::Inconsistent(format!("{key} is not computed here")).of(POOLING))
        }
        (Some(_), Some((key, _))) => {
            Err(Problem::Inconsistent(format!("{key} beside another is not computed here")).of(POOLING))
        }
        (None, _) => Err(Problem::Inconsistent("it says no way of pooling".to_owned()).of(POOLING)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn embeds(files: &[(&str, Value)]) -> Result<Option<Embeds>, String> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("1_Pooling")).unwrap();
        files.iter().for_each(|(name, json)| fs::write(dir.path().join(name), json.to_string()).unwrap());
        Embeds::from_folder(dir.path()).map_err(|e| format!("{}: {e}", e.file))
    }

    #[test]
    fn what_the_files_say_is_done() {
        let (bert, llama) =
            (json!({ "model_type": "bert" }), json!({ "model_type": "qwen3", "is_matryoshka": true }));
        let plain = Embeds {
            pooling: Pooling::Mean,
            is_normalized: true,
            longest: None,
            dimensions: Dimensions::Whole,
        };
        assert_eq!(embeds(&[(CONFIG, bert.clone())]).unwrap(), Some(plain.clone()));
        assert_eq!(embeds(&[(CONFIG, llama.clone())]).unwrap(), None);
        let modules =
            json!([{ "type": "sentence_transformers.models.Transformer" }, { "type": "x.Pooling" }]);
        let (cls, length) = (json!({ "pooling_mode_cls_token": true }), json!({ "max_seq_length": 256 }));
        let got =
            embeds(&[(CONFIG, bert.clone()), (MODULES, modules.clone()), (POOLING, cls), (LENGTH, length)]);
        let expected =
            Embeds { pooling: Pooling::First, is_normalized: false, longest: Some(256), ..plain.clone() };
        assert_eq!(got.unwrap(), Some(expected));
        let last = json!({ "pooling_mode_lasttoken": true });
        let expected = Embeds { pooling: Pooling::Last, dimensions: Dimensions::Any, ..plain };
        assert_eq!(embeds(&[(CONFIG, llama), (POOLING, last)]).unwrap(), Some(expected));
        let check = |file: &str, json: Value, words: &str| {
            let error = embeds(&[(CONFIG, bert.clone()), (file, json)]).unwrap_err();
            assert!(error.contains(words), "{error}");
        };
        check(POOLING, json!({ "pooling_mode_max_tokens": true }), "max_tokens is not computed");
        check(
            POOLING,
            json!({ "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true }),
            "beside another",
        );
        check(POOLING, json!({}), "no way of pooling");
        check(
            MODULES,
            json!([{ "type": "sentence_transformers.models.Dense" }]),
            "models.Dense, which neuron",
        );
    }

    #[test]
    fn a_vector_is_cut_before_it_is_normalized() {
        let embeds = Embeds {
            pooling: Pooling::Mean,
            is_normalized: true,
            longest: None,
            dimensions: Dimensions::Any,
        };
        assert_eq!(embeds.finish(vec![3.0, 4.0, 12.0], Some(2)), [0.6, 0.8]);
        assert_eq!(embeds.finish(vec![0.0, 0.0], None), [0.0, 0.0]);
    }
}
