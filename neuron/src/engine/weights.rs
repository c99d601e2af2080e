//! Where a model's tensors are read from.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use neuron_kernels::{dense::Float, quant::Source};

use super::ModelError;
use crate::{
    gguf::{Format, Header},
    safetensors::Safetensors,
};

/// A model's files, their headers read and checked.
#[derive(Debug, Clone)]
pub struct Weights {
    pub(crate) files: Files,
    /// Bytes that have been read of them.
    read: Arc<AtomicU64>,
}

#[derive(Debug, Clone)]
pub(crate) enum Files {
    Gguf { path: PathBuf, header: Arc<Header> },
    Safetensors(Arc<Safetensors>),
}

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Quant(Source),
    Float(Float),
}

/// A tensor as it lies in a file.
pub(crate) struct Raw {
    /// Rows and columns; a vector is one row.
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) kind: Kind,
    pub(crate) bytes: Vec<u8>,
}

impl Kind {
    /// `None`: not computed with.
    pub(crate) fn of(format: Format) -> Option<Self> {
        Some(match format.0 {
            0 => Self::Float(Float::F32),
            1 => Self::Float(Float::F16),
            30 => Self::Float(Float::BF16),
            2 => Self::Quant(Source::Q4_0),
            3 => Self::Quant(Source::Q4_1),
            6 => Self::Quant(Source::Q5_0),
            7 => Self::Quant(Source::Q5_1),
            8 => Self::Quant(Source::Q8_0),
            10 => Self::Quant(Source::Q2K),
            11 => Self::Quant(Source::Q3K),
            12 => Self::Quant(Source::Q4K),
            13 => Self::Quant(Source::Q5K),
            14 => Self::Quant(Source::Q6K),
            _ => return None,
        })
    }

    /// Bytes that a matrix takes once it is packed.
    pub(crate) fn packed_bytes(self, rows: u64, columns: u64) -> u64 {
        match self {
            Self::Quant(source) => source.packed_bytes(rows, columns),
            Self::Float(float) => float.packed_bytes(rows, columns),
        }
    }
}

impl Weights {
    pub fn gguf(path: PathBuf, header: Arc<Header>) -> Self {
        Self { files: Files::Gguf { path, header }, read: Arc::default() }
    }

    pub fn safetensors(files: Arc<Safetensors>) -> Self {
        Self { files: Files::Safetensors(files), read: Arc::default() }
    }

    /// Counts the bytes that are read from now on.
    pub(crate) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }

    /// The tensor's kind, by GGUF's name for it.
    pub(crate) fn kind(&self, name: &str) -> Option<Kind> {
        match &self.files {
            Files::Gguf { header, .. } => Kind::of(header.tensors.get(name)?.format),
            Files::Safetensors(files) => files.kind(name),
        }
    }

    /// Reads a tensor by GGUF's name for it, or one expert's part of it.
    pub(crate) fn read(&self, name: &str, expert: Option<u64>) -> Result<Raw, ModelError> {
        let raw = match &self.files {
            Files::Gguf { path, header } => read_gguf(path, header, name, expert),
            Files::Safetensors(files) => files.read(name, expert),
        }?;
        self.read.fetch_add(raw.bytes.len() as u64, Ordering::Relaxed);
        Ok(raw)
    }

    /// Reads a tensor by the files' own name for it.
    pub(crate) fn read_own(&self, files: &Safetensors, name: &str) -> Result<Raw, ModelError> {
        let raw = files.read_own(name)?;
        self.read.fetch_add(raw.bytes.len() as u64, Ordering::Relaxed);
        Ok(raw)
    }
}

fn read_gguf(path: &Path, header: &Header, name: &str, expert: Option<u64>) -> Result<Raw, ModelError> {
    let missing = || ModelError(format!("tensor {name} is missing"));
    let tensor = header.tensors.get(name).ok_or_else(missing)?;
    let kind = Kind::of(tensor.format)
        .ok_or_else(|| ModelError(format!("tensor {name} is {}", tensor.format.name())))?;
    let whole = tensor.bytes().ok_or_else(missing)?;
    let columns = tensor.dims.first().copied().unwrap_or(1);
    let mut rows: u64 = tensor.dims.iter().skip(1).product();
    let (path, start) = header.place(path, tensor);
    let (mut from, mut len) = (start, whole);
    if let (Some(expert), Some(count)) = (expert, tensor.dims.get(2)) {
        (rows, len) = (rows / count, len / count);
        from += expert * len;
    }
    let bytes = read_at(path, from, len)?;
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    Ok(Raw { rows: size(rows), columns: size(columns), kind, bytes })
}

/// Exactly `len` bytes of a file.
pub(crate) fn read_at(path: &Path, from: u64, len: u64) -> Result<Vec<u8>, ModelError> {
    let failed = |e: std::io::Error| ModelError(format!("{}: {e}", path.display()));
    let file = File::open(path).map_err(failed)?;
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, from).map_err(failed)?;
    Ok(bytes)
}
