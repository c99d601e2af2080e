//! Where a model's tensors are read from.

mod eight_bits;

use std::{
    collections::BTreeMap,
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

pub(crate) use eight_bits::Scales;

use super::ModelError;
use crate::{
    gguf::{Format, Header},
    safetensors::Safetensors,
};
use eight_bits::EightBits;

/// A model's files, their headers read and checked.
#[derive(Debug, Clone)]
pub struct Weights {
    pub(crate) files: Files,
    /// What matrices of floats become.
    in_situ: Option<Target>,
    /// Of which rank, of how many, the parts are read.
    shard: Option<[usize; 2]>,
    /// Bytes that have been read of them.
    read: Arc<AtomicU64>,
}

#[derive(Debug, Clone)]
pub(crate) enum Files {
    Gguf {
        path: PathBuf,
        header: Arc<Header>,
    },
    Safetensors(Arc<Safetensors>),
    /// Numbers that mean nothing, of a true shape, to measure with.
    Noise(Arc<Noise>),
}

/// A few files' bytes over and over, in place of tensors.
#[derive(Debug)]
pub(crate) struct Noise {
    /// Dimensions by GGUF's names, rows last.
    pub(crate) dims: BTreeMap<String, Vec<u64>>,
    /// What a matrix is, by name, and the file of its bytes: whole rows.
    pub(crate) matrix: fn(&str) -> Kind,
    pub(crate) files: Vec<(Kind, PathBuf)>,
    /// Floats of 32 bits, for norms.
    pub(crate) vectors: PathBuf,
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
    /// The file has so many bytes, over and over.
    repeats: Option<usize>,
    /// Of each stored row only some columns are meant: bytes of the whole row, and those before them.
    narrowed: Option<[usize; 2]>,
    /// The file has eight bits for each of the floats.
    eight_bits: Option<EightBits>,
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

/// How a tensor is cut into parts for several ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Each rank makes some of what comes out.
    Rows,
    /// Each rank takes some of what goes in, and what comes out is summed.
    Columns,
}

impl Cut {
    /// Of the tensor that GGUF calls so; `None`: every rank has all of it.
    fn of(name: &str) -> Option<Self> {
        let (_, part) = name.strip_prefix("blk.")?.split_once('.')?;
        match part.rsplit_once('.')?.0 {
            "attn_q" | "attn_k" | "attn_v" | "ffn_gate" | "ffn_up" | "ffn_gate_exps" | "ffn_up_exps" => {
                Some(Self::Rows)
            }
            "attn_output" | "ffn_down" | "ffn_down_exps" => Some(Self::Columns),
            _ => None,
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
        Ok(Self {
            name: name.to_owned(),
            rows,
            columns,
            kind,
            file,
            from,
            len,
            repeats: None,
            narrowed: None,
            eight_bits: None,
            read: Arc::default(),
        })
    }

    /// As [`Self::open`], of a matrix of E4M3 that `scales` are for.
    pub(crate) fn open_eight_bits(
        name: &str,
        path: &Path,
        [from, len]: [u64; 2],
        [rows, columns]: [u64; 2],
        (kind, scales): (Kind, Scales),
    ) -> Result<Self, ModelError> {
        let floats = [from, len.saturating_mul(4)];
        let tensor = Self::open(name, path, floats, [rows, columns], kind)?;
        let eight_bits = Some(EightBits::new(scales, tensor.columns));
        Ok(Self { eight_bits, ..tensor })
    }

    /// What a rank has of it.
    fn part(self, cut: Cut, [rank, size]: [usize; 2]) -> Result<Self, ModelError> {
        let each = self.float()?.bytes();
        let (rows, columns) = (self.rows, self.columns);
        // A vector is one row.
        let count = if cut == Cut::Rows && rows > 1 { rows } else { columns };
        if !count.is_multiple_of(size) {
            return Err(ModelError(format!("tensor {} cannot be cut into {size} parts", self.name)));
        }
        let part = count / size;
        let bytes_of = |columns: usize| columns * each;
        if let Some(of) = &self.eight_bits {
            let (rows, columns, of) = match cut {
                Cut::Rows if rows > 1 => (part, columns, of.from(rank * part, 0)),
                _ => (rows, part, of.from(0, rank * part)),
            };
            return Ok(Self { rows, columns, len: rows * bytes_of(columns), eight_bits: Some(of), ..self });
        }
        Ok(match cut {
            Cut::Rows if rows > 1 => {
                let len = part * bytes_of(columns);
                Self { rows: part, from: self.from + (rank * len) as u64, len, ..self }
            }
            Cut::Rows => {
                let len = bytes_of(part);
                Self { columns: part, from: self.from + (rank * len) as u64, len, ..self }
            }
            Cut::Columns => Self {
                columns: part,
                len: rows * bytes_of(part),
                narrowed: Some([bytes_of(columns), rank * bytes_of(part)]),
                ..self
            },
        })
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
        let read = |into: &mut [u8], from: usize| {
            self.read.fetch_add(into.len() as u64, Ordering::Relaxed);
            if let Some(period) = self.repeats {
                let mut done = 0;
                while done < into.len() {
                    let at = (from + done) % period;
                    let len = (period - at).min(into.len() - done);
                    self.file.read_exact_at(&mut into[done..done + len], at as u64)?;
                    done += len;
                }
                return Ok(());
            }
            self.file.read_exact_at(into, self.from + from as u64)
        };
        if let Some(of) = &self.eight_bits {
            // Whole rows are asked for, as below.
            let row = from / (self.columns * 4).max(1);
            return of.read((&self.file, self.from), (row, self.columns), into, &self.read);
        }
        let Some([whole, skipped]) = self.narrowed else { return read(into, from) };
        // Whole rows are asked for, by whoever packs them and by who wants all.
        let row_len = self.len / self.rows.max(1);
        let mut rows = vec![0; into.len() / row_len * whole];
        read(&mut rows, from / row_len * whole)?;
        for (row, into) in rows.chunks_exact(whole).zip(into.chunks_exact_mut(row_len)) {
            into.copy_from_slice(&row[skipped..skipped + row_len]);
        }
        Ok(())
    }
}

impl Weights {
    pub fn gguf(path: PathBuf, header: Arc<Header>) -> Self {
        Self { files: Files::Gguf { path, header }, in_situ: None, shard: None, read: Arc::default() }
    }

    pub fn safetensors(files: Arc<Safetensors>) -> Self {
        Self { files: Files::Safetensors(files), in_situ: None, shard: None, read: Arc::default() }
    }

    pub(crate) fn noise(noise: Noise) -> Self {
        Self { files: Files::Noise(Arc::new(noise)), in_situ: None, shard: None, read: Arc::default() }
    }

    pub fn is_gguf(&self) -> bool {
        matches!(self.files, Files::Gguf { .. })
    }

    /// Matrices of floats are quantised as they are loaded.
    pub fn quantised(self, target: Option<Target>) -> Self {
        Self { in_situ: target, ..self }
    }

    /// The parts of the tensors that a rank of several has. Of floats alone: a quantised row cannot be cut anywhere.
    pub fn sharded(self, rank: usize, size: usize) -> Self {
        Self { shard: Some([rank, size]), ..self }
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
            Files::Noise(noise) => noise.kind(name),
        }?;
        Some(self.held(stored, name, rows, columns))
    }

    /// A tensor by GGUF's name for it, or one expert's part of it.
    pub(crate) fn tensor(&self, name: &str, expert: Option<u64>) -> Result<StoredTensor, ModelError> {
        let tensor = match &self.files {
            Files::Gguf { path, header } => in_gguf(path, header, name, expert),
            Files::Safetensors(files) => files.stored(name, expert),
            Files::Noise(noise) => noise.stored(name),
        }?;
        let tensor = match (self.shard, Cut::of(name)) {
            (Some(shard), Some(cut)) => tensor.part(cut, shard)?,
            _ => tensor,
        };
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
            (Kind::Float(float) | Kind::InSitu(float, _), Some(target))
                if rows > 1 && target.takes(columns) && !name.ends_with("ffn_gate_inp.weight") =>
            {
                // What makes the logits is given more bits, as in files.
                let is_output = matches!(name, "token_embd.weight" | "output.weight");
                Kind::InSitu(float, if is_output { target.max(Target::Q6K) } else { target })
            }
            // A part may be narrower than its whole.
            (Kind::InSitu(float, target), _) if !target.takes(columns) => Kind::Float(float),
            _ => kind,
        }
    }
}

impl Noise {
    fn kind(&self, name: &str) -> Option<Kind> {
        Some(if self.dims.get(name)?.len() == 1 { Kind::Float(Float::F32) } else { (self.matrix)(name) })
    }

    fn stored(&self, name: &str) -> Result<StoredTensor, ModelError> {
        let missing = || ModelError(format!("there is no noise for {name}"));
        let (dims, kind) = (self.dims.get(name).ok_or_else(missing)?, self.kind(name).ok_or_else(missing)?);
        let (columns, rows) = (dims[0], dims.get(1).copied().unwrap_or(1));
        let path = match dims.len() {
            1 => &self.vectors,
            _ => &self.files.iter().find(|(of, _)| *of == kind).ok_or_else(missing)?.1,
        };
        let len = match kind {
            Kind::Quant(source) => {
                let (elements, bytes) = source.block();
                rows * columns / elements as u64 * bytes as u64
            }
            Kind::Float(float) | Kind::InSitu(float, _) => rows * columns * float.bytes() as u64,
        };
        let tensor = StoredTensor::open(name, path, [0, len], [rows, columns], kind)?;
        let period = tensor.file.metadata().map_err(|e| ModelError(e.to_string()))?.len();
        Ok(StoredTensor { repeats: usize::try_from(period).ok(), ..tensor })
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
