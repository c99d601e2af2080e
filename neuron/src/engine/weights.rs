//! Where a model's tensors are read from.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use neuron_kernels::{
    Matrix, Order, Pool, Stored,
    dense::{DenseMatrix, Float},
    quant::{QuantMatrix, Source, Target},
};

use super::ModelError;
use crate::{
    gguf::{Format, Header},
    safetensors::Safetensors,
};

/// A model's files, their headers read and checked.
#[derive(Debug, Clone)]
pub struct Weights {
    pub(crate) files: Files,
    /// What matrices of floats become.
    in_situ: Option<Target>,
    /// Bytes that have been read of them.
    read: Arc<AtomicU64>,
}

#[derive(Debug, Clone)]
pub(crate) enum Files {
    Gguf { path: PathBuf, header: Arc<Header> },
    Safetensors(Arc<Safetensors>),
}

/// How a matrix's numbers are stored and held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Quant(Source),
    Float(Float),
    /// Floats that are quantised as they are loaded.
    InSitu(Float, Target),
}

/// A tensor in a file. Its bytes are read when they are asked for.
#[derive(Debug)]
pub(crate) struct StoredTensor {
    name: String,
    /// Rows and columns; a vector is one row.
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) kind: Kind,
    file: File,
    /// Bytes from the start of the file.
    from: u64,
    /// Bytes.
    len: usize,
    /// Counts bytes that are read.
    read: Arc<AtomicU64>,
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
            Self::InSitu(_, target) => target.layout().packed_bytes(rows, columns),
        }
    }
}

impl StoredTensor {
    /// `from` and `len`: bytes of the file at `path`. Errors where it cannot be opened.
    pub(crate) fn open(
        name: &str,
        path: &Path,
        [from, len]: [u64; 2],
        [rows, columns]: [u64; 2],
        kind: Kind,
    ) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(|e| ModelError(format!("{}: {e}", path.display())))?;
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let (rows, columns, len) = (size(rows), size(columns), size(len));
        Ok(Self { name: name.to_owned(), rows, columns, kind, file, from, len, read: Arc::default() })
    }

    /// As a matrix that is multiplied with.
    pub(crate) fn matrix(&self, pool: &mut Pool, order: Order) -> Result<Matrix, ModelError> {
        let (rows, columns) = (self.rows, self.columns);
        let packed = match self.kind {
            Kind::Quant(source) => {
                QuantMatrix::pack(pool, source, rows, columns, self, order).map(Matrix::Quant)
            }
            Kind::Float(float) => {
                DenseMatrix::pack(pool, float, rows, columns, self, order).map(Matrix::Dense)
            }
            Kind::InSitu(float, target) => {
                QuantMatrix::quantise(pool, target, float, rows, columns, self, order).map(Matrix::Quant)
            }
        };
        packed.map_err(|e| self.failed(&e))
    }

    /// All elements. Errors where they are no floats.
    pub(crate) fn floats(&self) -> Result<Vec<f32>, ModelError> {
        Ok(self.float()?.to_f32(&self.bytes()?))
    }

    /// What its elements are. Errors where they are no floats.
    pub(crate) fn float(&self) -> Result<Float, ModelError> {
        match self.kind {
            Kind::Float(float) | Kind::InSitu(float, _) => Ok(float),
            Kind::Quant(source) => {
                Err(ModelError(format!("tensor {} is {source:?}, and must be floats", self.name)))
            }
        }
    }

    /// All of it as it is stored.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, ModelError> {
        let mut bytes = vec![0; self.len];
        self.read(0, &mut bytes).map_err(|e| self.failed(&e))?;
        Ok(bytes)
    }

    fn failed(&self, error: &io::Error) -> ModelError {
        ModelError(format!("tensor {} cannot be read: {error}", self.name))
    }
}

impl Stored for StoredTensor {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, from: usize, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, self.from + from as u64)?;
        self.read.fetch_add(into.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl Weights {
    pub fn gguf(path: PathBuf, header: Arc<Header>) -> Self {
        Self { files: Files::Gguf { path, header }, in_situ: None, read: Arc::default() }
    }

    pub fn safetensors(files: Arc<Safetensors>) -> Self {
        Self { files: Files::Safetensors(files), in_situ: None, read: Arc::default() }
    }

    /// Matrices of floats are quantised as they are loaded.
    pub fn quantised(self, target: Option<Target>) -> Self {
        Self { in_situ: target, ..self }
    }

    /// Counts the bytes that are read from now on.
    pub(crate) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }

    /// What the tensor becomes, a matrix of this shape, by GGUF's name for it.
    pub(crate) fn kind(&self, name: &str, rows: u64, columns: u64) -> Option<Kind> {
        let stored = match &self.files {
            Files::Gguf { header, .. } => Kind::of(header.tensors.get(name)?.format),
            Files::Safetensors(files) => files.kind(name),
        }?;
        Some(self.held(stored, name, rows, columns))
    }

    /// A tensor by GGUF's name for it, or one expert's part of it.
    pub(crate) fn tensor(&self, name: &str, expert: Option<u64>) -> Result<StoredTensor, ModelError> {
        let tensor = match &self.files {
            Files::Gguf { path, header } => in_gguf(path, header, name, expert),
            Files::Safetensors(files) => files.stored(name, expert),
        }?;
        let kind = self.held(tensor.kind, name, tensor.rows as u64, tensor.columns as u64);
        Ok(StoredTensor { kind, read: self.counter(), ..tensor })
    }

    /// A tensor by the files' own name for it.
    pub(crate) fn own_tensor(&self, files: &Safetensors, name: &str) -> Result<StoredTensor, ModelError> {
        Ok(StoredTensor { read: self.counter(), ..files.stored_own(name)? })
    }

    /// What becomes of a tensor that is stored as `kind`.
    fn held(&self, kind: Kind, name: &str, rows: u64, columns: u64) -> Kind {
        match (kind, self.in_situ) {
            // Routers are small, and which experts are chosen hangs on little.
            (Kind::Float(float), Some(target))
                if rows > 1 && target.takes(columns) && !name.ends_with("ffn_gate_inp.weight") =>
            {
                // What makes the logits is given more bits, as in files.
                let is_output = matches!(name, "token_embd.weight" | "output.weight");
                Kind::InSitu(float, if is_output { target.max(Target::Q6K) } else { target })
            }
            _ => kind,
        }
    }
}

fn in_gguf(
    path: &Path,
    header: &Header,
    name: &str,
    expert: Option<u64>,
) -> Result<StoredTensor, ModelError> {
    let missing = || ModelError(format!("tensor {name} is missing"));
    let tensor = header.tensors.get(name).ok_or_else(missing)?;
    let kind = Kind::of(tensor.format)
        .ok_or_else(|| ModelError(format!("tensor {name} is {}", tensor.format.name())))?;
    let mut len = tensor.bytes().ok_or_else(missing)?;
    let columns = tensor.dims.first().copied().unwrap_or(1);
    let mut rows: u64 = tensor.dims.iter().skip(1).product();
    let (path, mut from) = header.place(path, tensor);
    if let (Some(expert), Some(count)) = (expert, tensor.dims.get(2)) {
        (rows, len) = (rows / count, len / count);
        from += expert * len;
    }
    StoredTensor::open(name, path, [from, len], [rows, columns], kind)
}
