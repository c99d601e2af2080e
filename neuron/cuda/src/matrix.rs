//! What weights become on a device.

use neuron_kernels::{
    dense::Float,
    quant::{Layout, Planes},
};

use crate::{Buffer, Device, Error, ErrorKind};

/// How a matrix is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Float(Float),
    Quant(Layout),
}

/// How activations are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    F32,
    F16,
    BF16,
    /// In 8 bits, with a scale for each 32.
    Q8,
}

/// `count` matrices of `[rows, columns]`, one after the other: one, or one for each expert.
#[derive(Debug)]
pub struct Matrix {
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) count: usize,
    /// Of quantised ones low bits, high bits, and scales; of others all in the first.
    pub(crate) planes: [Buffer; 3],
}

impl Act {
    /// Bytes of a row of so many, beside its groups.
    pub fn bytes(self, width: usize) -> usize {
        width
            * match self {
                Self::F32 => 4,
                Self::F16 | Self::BF16 => 2,
                Self::Q8 => 1,
            }
    }
}

impl Format {
    /// Bytes of a row of so many columns in each of its planes.
    pub fn row_bytes(self, columns: usize) -> [usize; 3] {
        match self {
            Self::Float(float) => [columns * float.bytes(), 0, 0],
            Self::Quant(layout) => layout.planes().map(|bytes| columns / 32 * bytes),
        }
    }

    /// Bytes of a matrix.
    pub fn bytes(self, rows: u64, columns: u64) -> u64 {
        let columns = usize::try_from(columns).unwrap_or(usize::MAX);
        rows * self.row_bytes(columns).iter().map(|bytes| *bytes as u64).sum::<u64>()
    }

    /// What is multiplied with such a matrix where there are `tokens` rows of it.
    pub fn act(self, tokens: usize) -> Act {
        match self {
            Self::Float(Float::F32) => Act::F32,
            Self::Float(Float::F16) => Act::F16,
            Self::Float(Float::BF16) => Act::BF16,
            Self::Quant(_) if tokens <= crate::ops::FEW => Act::Q8,
            Self::Quant(_) => Act::BF16,
        }
    }

    /// Columns come in so many at once.
    pub fn columns_multiple(self) -> usize {
        match self {
            Self::Float(Float::F32) => 4,
            Self::Float(_) => 8,
            Self::Quant(_) => 32,
        }
    }
}

impl Matrix {
    /// With room for its numbers, which [`Self::write`] brings. Errors where columns are not a multiple of what kernels read at once.
    pub fn new(device: &Device, format: Format, [count, rows, columns]: [usize; 3]) -> Result<Self, Error> {
        let multiple = format.columns_multiple();
        if !columns.is_multiple_of(multiple) {
            let text =
                format!("{columns} columns are no multiple of {multiple}, which the GPU's kernels need");
            return Err(Error::new(ErrorKind::Failed, text));
        }
        let [low, high, scales] = format.row_bytes(columns);
        let buffer = |bytes: usize| device.alloc(count * rows * bytes);
        Ok(Self { format, rows, columns, count, planes: [buffer(low)?, buffer(high)?, buffer(scales)?] })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.planes.iter().map(Buffer::len).sum()
    }

    /// Rows from `row` on, counted over all matrices.
    pub fn write(&self, row: usize, planes: &Planes) -> Result<(), Error> {
        let each = self.format.row_bytes(self.columns);
        let data = [&planes.low, &planes.high, &planes.scales];
        for ((buffer, bytes), data) in self.planes.iter().zip(each).zip(data) {
            if !data.is_empty() {
                buffer.write(row * bytes, data)?;
            }
        }
        Ok(())
    }

    /// Its memory, to be put away and brought back.
    pub fn buffers(&self) -> [&Buffer; 3] {
        self.planes.each_ref()
    }

    /// Gives its memory back; `nothing` is an empty buffer. It must not be computed with until [`Self::allocate`].
    pub fn give_back(&mut self, nothing: &Buffer) {
        self.planes = [nothing.clone(), nothing.clone(), nothing.clone()];
    }

    /// Takes memory for its numbers again, which are not there yet.
    pub fn allocate(&mut self, device: &Device) -> Result<(), Error> {
        let each = self.format.row_bytes(self.columns);
        let [low, high, scales] = each.map(|bytes| device.alloc(self.count * self.rows * bytes));
        self.planes = [low?, high?, scales?];
        Ok(())
    }

    /// Addresses of all planes, checked to be whole.
    pub(crate) fn addresses(&self) -> [u64; 3] {
        [0, 1, 2].map(|n| self.planes[n].at(0, self.planes[n].len()))
    }
}
