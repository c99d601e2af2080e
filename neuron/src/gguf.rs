//! A strict reader of GGUF headers.
//!
//! The bytes are foreign, so every length is checked before anything is allocated for it, and every
//! bound has a name here. What this reader accepts, candle's own reader can no longer be hurt by.
//! Tensor data is never read here: a header is enough for the tokenizer, the chat template and preflight.

mod format;
mod parts;
mod reader;
mod value;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use crate::packed::Texts;
pub use format::Format;
pub(crate) use parts::{is_part, part_names, whole_stem};
pub use value::{Array, Value};

/// A header is never longer; past it the file is refused. The largest in use (260k tokens with merges) take 20 MB.
pub const MAX_HEADER_BYTES: u64 = 64 << 20;
/// Elements in all arrays of a header together, so that narrow elements cannot swell in memory.
pub const MAX_ARRAY_ELEMENTS: u64 = 8 << 20;
/// Bytes of one string; chat templates are the longest.
pub const MAX_STRING_BYTES: u64 = 8 << 20;
/// Metadata entries; models have about 40.
pub const MAX_METADATA: u64 = 1 << 16;
/// Tensors; the largest models have a few thousand.
pub const MAX_TENSORS: u64 = 1 << 16;
/// GGUF's own limit.
pub const MAX_DIMENSIONS: u32 = 4;

/// Everything in a GGUF file but the tensors' data; of one that is cut into parts, of all of them.
#[derive(Debug, Clone)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Where tensor data starts, bytes from the start of the file.
    pub data_offset: u64,
    /// Bytes of the whole file.
    pub file_len: u64,
    /// The second part and those after it.
    pub parts: Vec<Part>,
}

/// A further file of the same model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub path: PathBuf,
    /// As [`Header::data_offset`].
    pub data_offset: u64,
    /// Bytes.
    pub file_len: u64,
}

/// Where a tensor lies and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Innermost dimension first, as in the file; a matrix is `[columns, rows]`.
    pub dims: Vec<u64>,
    pub format: Format,
    /// Bytes from where its file's tensor data starts.
    pub offset: u64,
    /// 0: the file itself; n: the n-th of [`Header::parts`].
    pub part: usize,
}

/// What is wrong with a file, in words for the person who has to replace it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    #[error("it does not start with GGUF")]
    NotGguf,
    #[error("GGUF version {0} is not supported; versions 2 and 3 are")]
    Version(u32),
    #[error("it ends at byte {at}, inside {what}")]
    Truncated { at: u64, what: &'static str },
    #[error("{what} says {value}, where at most {max} is possible")]
    TooLarge { what: &'static str, value: u64, max: u64 },
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    #[error("{0} is not a type of GGUF")]
    UnknownType(u32),
    #[error("{0} holds arrays of arrays")]
    NestedArray(String),
    #[error("{0} appears twice")]
    Duplicate(String),
    #[error("general.alignment is {0}, which is not a power of two up to 65536")]
    Alignment(u64),
    #[error("tensor {name} has the impossible shape {dims:?}")]
    Shape { name: String, dims: Vec<u64> },
    #[error("tensor {name} ends at byte {end}, but the file has {len}")]
    TensorPastEnd { name: String, end: u64, len: u64 },
    #[error("tensors {first} and {second} lie over each other")]
    Overlap { first: String, second: String },
    #[error("{0} is missing")]
    Missing(String),
    #[error("{key} is not {expected}")]
    WrongType { key: String, expected: &'static str },
    #[error("{0}")]
    Inconsistent(String),
    #[error("{0}")]
    Io(String),
}

impl Header {
    /// Reads and checks the header of the file at `path`, tensor extents included. Where it is the first of several
    /// parts, the others' too, which lie beside it.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let mut header = Self::open_one(path)?;
        header.join(path)?;
        Ok(header)
    }

    fn open_one(path: &Path) -> Result<Self, GgufError> {
        let io = |e: std::io::Error| GgufError::Io(e.to_string());
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let header = reader::read(BufReader::with_capacity(1 << 16, file), len)?;
        header.check_extents()?;
        Ok(header)
    }

    /// As [`Header::open`], for bytes in memory.
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        let header = reader::read(bytes, bytes.len() as u64)?;
        header.check_extents()?;
        Ok(header)
    }

    /// Where the file that a tensor is in lies, `path` being the first one's, and where the tensor starts in it.
    pub(crate) fn place<'a>(&'a self, path: &'a Path, tensor: &TensorInfo) -> (&'a Path, u64) {
        match tensor.part.checked_sub(1).and_then(|n| self.parts.get(n)) {
            Some(part) => (&part.path, part.data_offset + tensor.offset),
            None => (path, self.data_offset + tensor.offset),
        }
    }

    fn check_extents(&self) -> Result<(), GgufError> {
        let mut places = Vec::with_capacity(self.tensors.len());
        for (name, tensor) in &self.tensors {
            let Some(bytes) = tensor.bytes() else { continue };
            let end = self.data_offset.checked_add(tensor.offset).and_then(|start| start.checked_add(bytes));
            match end {
                Some(end) if end <= self.file_len => places.push((tensor.offset, bytes, name)),
                _ => {
                    let end = end.unwrap_or(u64::MAX);
                    return Err(GgufError::TensorPastEnd { name: name.clone(), end, len: self.file_len });
                }
            }
        }
        places.sort_unstable();
        match places.windows(2).find(|two| two[0].0 + two[0].1 > two[1].0) {
            Some(two) => Err(GgufError::Overlap { first: two[0].2.clone(), second: two[1].2.clone() }),
            None => Ok(()),
        }
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> Result<&str, GgufError> {
        self.text("general.architecture")
    }

    /// A required text.
    pub fn text(&self, key: &str) -> Result<&str, GgufError> {
        self.optional_text(key)?.ok_or_else(|| GgufError::Missing(key.to_owned()))
    }

    /// A text that may be absent; an error when it is there but no text.
    pub fn optional_text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(GgufError::WrongType { key: key.to_owned(), expected: "a text" }),
        }
    }

    /// A required whole number.
    pub fn number(&self, key: &str) -> Result<u64, GgufError> {
        self.optional_number(key)?.ok_or_else(|| GgufError::Missing(key.to_owned()))
    }

    /// A whole number that may be absent; an error when it is there but none, or negative.
    pub fn optional_number(&self, key: &str) -> Result<Option<u64>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Int(n)) if *n >= 0 => Ok(Some(n.unsigned_abs())),
            Some(Value::Uint(n)) => Ok(Some(*n)),
            Some(_) => Err(GgufError::WrongType { key: key.to_owned(), expected: "a whole number" }),
        }
    }

    /// A float that may be absent; an error when it is there but none.
    pub fn optional_float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) => Ok(Some(*x)),
            Some(_) => Err(GgufError::WrongType { key: key.to_owned(), expected: "a float" }),
        }
    }

    /// `None` where it is absent or not a truth value.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.metadata.get(key) {
            Some(Value::Bool(b)) => Some(*b),
            _ => None,
        }
    }

    /// A required array of texts.
    pub fn texts(&self, key: &str) -> Result<&Texts, GgufError> {
        match self.metadata.get(key) {
            None => Err(GgufError::Missing(key.to_owned())),
            Some(Value::Array(Array::Text(texts))) => Ok(texts),
            Some(_) => Err(GgufError::WrongType { key: key.to_owned(), expected: "an array of texts" }),
        }
    }

    /// An array of whole numbers that may be absent.
    pub fn numbers(&self, key: &str) -> Result<Option<&[i64]>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::Int(numbers))) => Ok(Some(numbers)),
            Some(_) => {
                Err(GgufError::WrongType { key: key.to_owned(), expected: "an array of whole numbers" })
            }
        }
    }

    /// A required array of floats; whole numbers are taken for such.
    pub fn floats(&self, key: &str) -> Result<Cow<'_, [f32]>, GgufError> {
        match self.metadata.get(key) {
            None => Err(GgufError::Missing(key.to_owned())),
            Some(Value::Array(Array::Float(floats))) => Ok(floats.into()),
            #[expect(clippy::cast_precision_loss, reason = "as the format's other readers take them")]
            Some(Value::Array(Array::Int(numbers))) => Ok(numbers.iter().map(|n| *n as f32).collect()),
            Some(_) => Err(GgufError::WrongType { key: key.to_owned(), expected: "an array of floats" }),
        }
    }
}

impl TensorInfo {
    /// Elements; the reader has made sure that the product fits.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Bytes in the file; `None` for a format whose layout is not known here.
    pub fn bytes(&self) -> Option<u64> {
        let (block, bytes) = self.format.block()?;
        Some(self.elements().div_ceil(block) * bytes)
    }
}
