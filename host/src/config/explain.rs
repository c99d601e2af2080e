//! Errors of configuration files, for the person who made them.

use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// What is wrong with a configuration file, where, and what was probably meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {said}{}", .path.display(), at(*.line), hint(.nearest.as_deref()))]
pub struct ConfigError {
    pub path: PathBuf,
    /// From 1; absent where the error belongs to no line.
    pub line: Option<usize>,
    pub said: String,
    /// The valid key nearest to an unknown one.
    pub nearest: Option<String>,
}

fn at(line: Option<usize>) -> String {
    line.map(|l| format!(":{l}")).unwrap_or_default()
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default()
}

impl ConfigError {
    pub(super) fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::says(path, format!("cannot be read: {error}"))
    }

    /// The file that names all others.
    pub(super) fn main_file(path: &Path, error: &std::io::Error) -> Self {
        let next = match error.kind() {
            std::io::ErrorKind::NotFound => "; `cortex init` writes one, and --config names another",
            _ => "",
        };
        Self::says(path, format!("cannot be read: {error}{next}"))
    }

    pub(super) fn says(path: &Path, said: impl Display) -> Self {
        Self { path: path.to_owned(), line: None, said: said.to_string(), nearest: None }
    }
}

/// TOML text to `T`, errors with line and nearest key.
pub(super) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    let wrong = |key: Option<String>, error: &toml::de::Error| {
        let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        let nearest = nearest_key(error.message());
        let said = match key {
            Some(key) => format!("{key}: {}", error.message()),
            None => error.message().to_owned(),
        };
        ConfigError { path: path.to_owned(), line, said, nearest }
    };
    let source = toml::Deserializer::parse(text).map_err(|error| wrong(None, &error))?;
    serde_path_to_error::deserialize(source).map_err(|error| {
        // What is named itself needs no place; else the place is the key: `models[2].vram_mb`.
        let is_named = error.inner().message().starts_with("unknown field");
        let key = Some(error.path().to_string()).filter(|key| !is_named && key != ".");
        wrong(key, error.inner())
    })
}

/// From serde's sentence: unknown field `x`, expected one of `a`, `b`.
fn nearest_key(said: &str) -> Option<String> {
    let mut quoted = said.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    let known: Vec<&str> = quoted.collect();
    nearest(unknown, known.iter().copied(), 1).pop()
}

/// Up to `most` of the `known` words that are like `word`, the likest first.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>, most: usize) -> Vec<String> {
    let lower = word.to_lowercase();
    let likeness = |k: &str| {
        let k = k.to_lowercase();
        // An id's last part is what people remember: `llama-8b` for `org/llama-8b`.
        let tail = k.rsplit('/').next().map_or(0.0, |tail| strsim::jaro_winkler(&lower, tail));
        strsim::jaro_winkler(&lower, &k).max(tail)
    };
    let mut alike: Vec<(f64, &str)> = known.map(|k| (likeness(k), k)).filter(|(l, _)| *l > 0.75).collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0));
    alike.into_iter().take(most).map(|(_, k)| k.to_owned()).collect()
}
