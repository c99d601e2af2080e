//! How a model's makers say that it is to be sampled.

use std::path::Path;

use serde_json::Value;

use crate::{
    folder::{FolderError, optional_json},
    gguf::Header,
};

/// Settings that stand in for what a request leaves out; `None`: not told.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Defaults {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<usize>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
}

impl Defaults {
    /// Of a folder's generation_config.json.
    pub(crate) fn from_folder(folder: &Path) -> Result<Self, FolderError> {
        Ok(match optional_json(folder, "generation_config.json")? {
            Some(json) => Self::read(|key| json.root().get(key).and_then(Value::as_f64), HF),
            None => Self::default(),
        })
    }

    /// Of a GGUF file's `general.sampling` keys.
    pub(crate) fn from_header(header: &Header) -> Self {
        let whole =
            |key: &str| header.optional_number(key).ok().flatten().and_then(|n| u32::try_from(n).ok());
        let number = |key: &str| header.optional_float(key).ok().flatten();
        Self::read(|key| number(key).or_else(|| whole(key).map(f64::from)), GGUF)
    }

    /// What is out of range is left out: a model that says nonsense is sampled as any other.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ranges are checked")]
    fn read(
        get: impl Fn(&str) -> Option<f64>,
        [temperature, top_p, top_k, min_p, penalty]: [&str; 5],
    ) -> Self {
        let number = |key: &str, least: f64, most: f64| {
            get(key).filter(|number| (least..=most).contains(number)).map(|number| number as f32)
        };
        Self {
            temperature: number(temperature, 0.0, 2.0),
            top_p: number(top_p, 0.0, 1.0),
            top_k: get(top_k).filter(|k| (0.0..=1e9).contains(k)).map(|k| k as usize),
            min_p: number(min_p, 0.0, 1.0),
            repetition_penalty: number(penalty, 0.01, 10.0),
        }
    }
}

const HF: [&str; 5] = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty"];
const GGUF: [&str; 5] = [
    "general.sampling.temp",
    "general.sampling.top_p",
    "general.sampling.top_k",
    "general.sampling.min_p",
    "general.sampling.penalty_repeat",
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_makers_say_is_taken_as_far_as_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Defaults::from_folder(dir.path()).unwrap(), Defaults::default());
        let said = json!({ "do_sample": true, "temperature": 0.6, "top_p": 7, "top_k": 20, "repetition_penalty": "x" });
        std::fs::write(dir.path().join("generation_config.json"), said.to_string()).unwrap();
        let expected = Defaults { temperature: Some(0.6), top_k: Some(20), ..Defaults::default() };
        assert_eq!(Defaults::from_folder(dir.path()).unwrap(), expected);
    }
}
