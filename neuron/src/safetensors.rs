//! A strict reader of models in safetensors: a folder with config.json and one or several files of weights.
//!
//! The bytes are foreign, so every length is checked before anything is allocated for it, and every bound
//! has a name here. Opening reads headers alone; a tensor is read when it is asked for, by the name that
//! GGUF has for it, so that whoever loads a model need not know which kind of file it came in.

mod check;
mod dtype;
mod files;
mod header;
mod names;
mod scaled;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use candle_core::DType;
use neuron_kernels::dense::Float;

use crate::{
    engine::{Kind, ModelError, StoredTensor},
    folder::{self, FolderError, Json, Object, Problem},
};
use dtype::Dtype;
use names::Names;

pub(crate) use scaled::METHODS;

pub(crate) use files::{CONFIG, INDEX, WHOLE, missing_files, shards};

/// A file's header is never longer; past it the file is refused. The format's own bound is 100 MB, and the
/// largest models in use have 5 MB.
pub const MAX_HEADER_BYTES: u64 = 64 << 20;
/// Tensors in all files together; the largest models in use, with experts one by one, have 50,000.
pub const MAX_TENSORS: usize = 1 << 18;
/// Files of one model; the largest in use have some 200.
pub const MAX_FILES: usize = 4096;
/// Dimensions of a tensor; convolutions of vision towers have the most, 5.
pub const MAX_DIMENSIONS: usize = 8;

/// A model's folder, its headers read and checked. No tensor is in memory.
#[derive(Debug)]
pub struct Safetensors {
    folder: PathBuf,
    config: Json,
    /// Names of the files of weights.
    files: Vec<String>,
    /// By the names in the files.
    tensors: BTreeMap<String, Tensor>,
    names: Names,
}

/// Where a tensor lies and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tensor {
    /// Which of the files.
    file: usize,
    dtype: Dtype,
    /// Outermost dimension first, as in the file; a matrix is `[rows, columns]`.
    dims: Vec<u64>,
    /// Bytes from the start of the file.
    start: u64,
    /// Bytes.
    len: u64,
}

impl Safetensors {
    /// Reads config.json and the header of every file of weights.
    pub fn open(folder: &Path) -> Result<Self, FolderError> {
        let config = folder::json(folder, CONFIG)?;
        let (files, listed) = files::list(folder)?;
        let mut tensors = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for (name, tensor) in header::open(folder, file, number)? {
                if tensors.insert(name.clone(), tensor).is_some() {
                    return Err(Problem::Duplicate(format!("the tensor {name}")).of(file));
                }
            }
            if tensors.len() > MAX_TENSORS {
                let (value, max) = (tensors.len() as u64, MAX_TENSORS as u64);
                return Err(Problem::TooLarge { what: "the number of tensors", value, max }.of(file));
            }
        }
        if let Some((name, file)) = listed.iter().find(|(name, file)| {
            tensors.get(*name).is_none_or(|tensor: &Tensor| files[tensor.file] != **file)
        }) {
            return Err(Problem::Missing(format!("the tensor {name}, which {INDEX} says is here,")).of(file));
        }
        let names = Names::of(|name| tensors.contains_key(name));
        Ok(Self { folder: folder.to_owned(), config, files, tensors, names })
    }

    /// What config.json says.
    pub fn config(&self) -> &serde_json::Value {
        self.config.value()
    }

    /// As [`Self::config`], for reading key by key.
    pub(crate) fn root(&self) -> Object<'_> {
        self.config.root()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|tensor| tensor.len).sum()
    }

    /// The files' own names for all tensors.
    pub(crate) fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor's dimensions, outermost first, by the files' own name for it.
    pub(crate) fn dims(&self, name: &str) -> Option<Vec<usize>> {
        let tensor = self.tensors.get(name)?;
        Some(tensor.dims.iter().map(|dim| usize::try_from(*dim).unwrap_or(usize::MAX)).collect())
    }

    /// An error where the tensor is of a type that is not computed with.
    pub(crate) fn float(&self, name: &str) -> Result<DType, FolderError> {
        let tensor = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        match tensor.dtype.float() {
            Some(Float::F32) => Ok(DType::F32),
            Some(Float::F16) => Ok(DType::F16),
            Some(Float::BF16) => Ok(DType::BF16),
            None => {
                let problem = Problem::Format { name: name.to_owned(), dtype: tensor.dtype.name() };
                Err(self.problem(name, problem))
            }
        }
    }

    /// Reads a tensor by the files' own name for it, as F32.
    pub(crate) fn tensor(&self, name: &str) -> candle_core::Result<candle_core::Tensor> {
        let message = |e: String| candle_core::Error::Msg(e);
        let dtype = self.float(name).map_err(|e| message(e.to_string()))?;
        let dims = self.dims(name).ok_or_else(|| message(self.missing(name).to_string()))?;
        let bytes =
            self.stored_own(name).and_then(|tensor| tensor.bytes()).map_err(|e| message(e.to_string()))?;
        let stored = candle_core::Tensor::from_raw_buffer(&bytes, dtype, &dims, &candle_core::Device::Cpu)?;
        stored.to_dtype(DType::F32)
    }

    /// There is no such tensor.
    pub(crate) fn missing(&self, name: &str) -> FolderError {
        // No file is at fault more than another; the first one has a name that can be told.
        Problem::Missing(format!("tensor {name}")).of(self.files.first().map_or(WHOLE, String::as_str))
    }

    /// With the name of the file that the tensor is in.
    pub(crate) fn problem(&self, name: &str, problem: Problem) -> FolderError {
        let file = self.tensors.get(name).and_then(|tensor| self.files.get(tensor.file));
        problem.of(file.map_or(WHOLE, String::as_str))
    }

    /// Bytes of a tensor's elements as they are packed for computing, by the files' own name for it.
    pub(crate) fn packed_bytes(&self, name: &str) -> u64 {
        let Some(tensor) = self.tensors.get(name) else { return 0 };
        let [rows @ .., columns] = &tensor.dims[..] else { return 0 };
        tensor.kind().map_or(0, |kind| kind.packed_bytes(rows.iter().product(), *columns))
    }

    /// How a tensor is stored, by GGUF's name for it; of experts that one name stands for, the first. `None`:
    /// it is not there, or of a type that is not computed with.
    pub(crate) fn kind(&self, gguf_name: &str) -> Option<Kind> {
        self.tensors.get(&self.names.name(gguf_name, Some(0))?)?.kind()
    }

    /// A tensor by GGUF's name for it. `expert`: the one that is wanted, where the name stands for several.
    pub(crate) fn stored(&self, gguf_name: &str, expert: Option<u64>) -> Result<StoredTensor, ModelError> {
        let missing = || ModelError(format!("tensor {gguf_name} is missing"));
        let name = self.names.name(gguf_name, expert).ok_or_else(missing)?;
        self.stored_own(&name)
    }

    /// A tensor by the files' own name for it.
    pub(crate) fn stored_own(&self, name: &str) -> Result<StoredTensor, ModelError> {
        let missing = || ModelError(format!("tensor {name} is missing"));
        let tensor = self.tensors.get(name).ok_or_else(missing)?;
        if tensor.is_eight_bits() {
            return self.stored_in_eight_bits(name, tensor);
        }
        let unknown = || ModelError(format!("tensor {name} is {}", tensor.dtype.name()));
        let kind = Kind::Float(tensor.dtype.float().ok_or_else(unknown)?);
        let columns = tensor.dims.last().copied().unwrap_or(1);
        let rows = tensor.dims.iter().rev().skip(1).product();
        let path = self.folder.join(&self.files[tensor.file]);
        StoredTensor::open(name, &path, [tensor.start, tensor.len], [rows, columns], kind)
    }
}

/// Any bytes as a file of weights; for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let Ok(tensors) = header::read(bytes, bytes.len() as u64, 0) else { return };
    for (name, tensor) in tensors {
        assert!(tensor.start + tensor.len <= bytes.len() as u64, "{name}");
    }
}

#[cfg(test)]
mod tests;
