//! The small files of a model that comes as a folder: config.json, tokenizer_config.json and the like.
//!
//! Their bytes are foreign: no more than a bound of them is read, and a key is checked where it is asked
//! for, so that an error names the file and the key.

mod object;

use std::{fs::File, io::Read, path::Path};

pub(crate) use object::{Json, Object};

/// Bytes of a JSON file but tokenizer.json; the longest are lists of which tensor lies where, some 5 MB.
pub(crate) const MAX_JSON_BYTES: u64 = 32 << 20;

/// What is wrong with a model's folder, in words for the person who has to replace a file of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct FolderError {
    /// The file's own name; the words do without it.
    pub file: String,
    pub problem: Problem,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("there is no such file")]
    Absent,
    #[error("it is not the JSON that it should be: {0}")]
    NotJson(String),
    #[error("it is not UTF-8")]
    NotUtf8,
    #[error("{what} says {value}, where at most {max} is possible")]
    TooLarge { what: &'static str, value: u64, max: u64 },
    #[error("{0} is missing")]
    Missing(String),
    #[error("{key} is not {expected}")]
    WrongType { key: String, expected: &'static str },
    #[error("it names the file {0:?}, which is none of this folder's")]
    FileName(String),
    #[error("it ends at byte {at}, inside {what}")]
    Truncated { at: u64, what: &'static str },
    #[error("{0} is not a type of safetensors")]
    UnknownType(String),
    #[error("{0} appears twice")]
    Duplicate(String),
    #[error("tensor {name} has the impossible shape {dims:?}")]
    Shape { name: String, dims: Vec<u64> },
    #[error("tensor {name} has {bytes} bytes, where its shape needs {needed}")]
    TensorBytes { name: String, bytes: u64, needed: u64 },
    #[error("tensor {name} ends at byte {end}, but the file has {len}")]
    TensorPastEnd { name: String, end: u64, len: u64 },
    #[error("tensors {first} and {second} lie over each other")]
    Overlap { first: String, second: String },
    /// A type that is known, but not computed with.
    #[error("tensor {name} is {dtype}, which neuron cannot compute with")]
    Format { name: String, dtype: &'static str },
    #[error("{0}")]
    Inconsistent(String),
    #[error("{0}")]
    Io(String),
}

impl Problem {
    /// With the name of the file that it is of.
    pub(crate) fn of(self, file: &str) -> FolderError {
        FolderError { file: file.to_owned(), problem: self }
    }
}

/// The whole file, `None` where there is none; an error past `max` bytes.
pub(crate) fn bytes(folder: &Path, file: &str, max: u64) -> Result<Option<Vec<u8>>, FolderError> {
    let io = |e: std::io::Error| Problem::Io(e.to_string()).of(file);
    let opened = match File::open(folder.join(file)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(io)?,
    };
    let mut bytes = Vec::new();
    opened.take(max + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > max {
        return Err(Problem::TooLarge { what: "its length", value: bytes.len() as u64, max }.of(file));
    }
    Ok(Some(bytes))
}

/// A JSON file that may not be there.
pub(crate) fn optional_json(folder: &Path, file: &'static str) -> Result<Option<Json>, FolderError> {
    bytes(folder, file, MAX_JSON_BYTES)?.map(|bytes| Json::parse(file, &bytes)).transpose()
}

/// A JSON file.
pub(crate) fn json(folder: &Path, file: &'static str) -> Result<Json, FolderError> {
    optional_json(folder, file)?.ok_or_else(|| Problem::Absent.of(file))
}
