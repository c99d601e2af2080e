//! Matrices of floats, sixteen rows to a panel.
//!
//! A panel holds its rows column by column, sixteen floats each, so that a kernel multiplies them with
//! one activation, repeated. Attention's keys and values lie in memory the same way and use the same kernel.

pub(crate) mod kernel;

use std::io;

use half::{bf16, f16};

use crate::{
    Pool,
    aligned::Aligned,
    cpu::Level,
    shared::Shared,
    stored::{Order, Rows, Stored},
};

/// Rows of a panel.
pub const LANES: usize = 16;
/// Columns that are put into a panel together.
const COLUMNS: usize = 64;
/// Rows of activations that one pass over a panel takes at most; see [`rows_a_pass`].
pub(crate) const MOST: usize = 12;

/// As many rows of activations as keep their sums in registers while a panel passes.
pub(crate) fn rows_a_pass(level: Level) -> usize {
    if level >= Level::Avx512 { MOST } else { MOST / 2 }
}

/// A float format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    F32,
    F16,
    BF16,
}

impl Float {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// Bytes that a matrix takes once it is packed.
    pub fn packed_bytes(self, rows: u64, columns: u64) -> u64 {
        rows.div_ceil(LANES as u64) * LANES as u64 * columns * self.bytes() as u64
    }

    fn get(self, bytes: &[u8], at: usize) -> f32 {
        match self {
            Self::F32 => {
                f32::from_le_bytes([bytes[at * 4], bytes[at * 4 + 1], bytes[at * 4 + 2], bytes[at * 4 + 3]])
            }
            Self::F16 => f16::from_le_bytes([bytes[at * 2], bytes[at * 2 + 1]]).to_f32(),
            Self::BF16 => bf16::from_le_bytes([bytes[at * 2], bytes[at * 2 + 1]]).to_f32(),
        }
    }

    /// `out.len()` elements as floats, from the one at `first` on.
    pub fn widen(self, bytes: &[u8], first: usize, out: &mut [f32]) {
        out.iter_mut().enumerate().for_each(|(n, out)| *out = self.get(bytes, first + n));
    }

    /// Elements as floats.
    pub fn to_f32(self, bytes: &[u8]) -> Vec<f32> {
        (0..bytes.len() / self.bytes()).map(|at| self.get(bytes, at)).collect()
    }
}

/// Elements in memory, by their width.
pub(crate) enum Elements {
    F32(Aligned<f32>),
    F16(Aligned<u16>),
    BF16(Aligned<u16>),
}

/// Where a kernel finds its panel's elements.
#[derive(Clone, Copy)]
pub(crate) enum View<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    BF16(&'a [u16]),
}

impl Elements {
    pub(crate) fn zeros(float: Float, len: usize) -> Self {
        match float {
            Float::F32 => Self::F32(Aligned::zeros(len)),
            Float::F16 => Self::F16(Aligned::zeros(len)),
            Float::BF16 => Self::BF16(Aligned::zeros(len)),
        }
    }

    pub(crate) fn view(&self, from: usize, len: usize) -> View<'_> {
        match self {
            Self::F32(all) => View::F32(&all[from..from + len]),
            Self::F16(all) => View::F16(&all[from..from + len]),
            Self::BF16(all) => View::BF16(&all[from..from + len]),
        }
    }
}

/// Rows as a panel has them: column by column, [`LANES`] elements each.
fn interleave<const N: usize, T>(rows: &[&[u8]], out: &mut [T], from: impl Fn([u8; N]) -> T) {
    // A few columns at a time, which stay in the nearest cache while every row is gone over.
    for (piece, out) in out.chunks_mut(COLUMNS * LANES).enumerate() {
        for (lane, row) in rows.iter().enumerate() {
            let elements = &row.as_chunks::<N>().0[piece * COLUMNS..];
            for (column, element) in out.chunks_exact_mut(LANES).zip(elements) {
                column[lane] = from(*element);
            }
        }
    }
}

/// A matrix of floats, `[rows, columns]`.
pub struct DenseMatrix {
    rows: usize,
    columns: usize,
    float: Float,
    data: Elements,
}

impl DenseMatrix {
    /// Packs a `[rows, columns]` matrix as it lies in a file, row by row, little end first. Errors where it cannot
    /// be read.
    ///
    /// Panics where `stored` is not exactly the matrix: a caller has checked the file's header.
    pub fn pack(
        pool: &mut Pool,
        float: Float,
        rows: usize,
        columns: usize,
        stored: &dyn Stored,
        order: Order,
    ) -> io::Result<Self> {
        let len = LANES * columns;
        let mut data = Elements::zeros(float, rows.div_ceil(LANES) * len);
        let rows_of = Rows { stored, count: rows, row_len: columns * float.bytes(), order };
        match &mut data {
            Elements::F32(data) => {
                let out = Shared::new(data);
                rows_of.each_panel(pool, LANES, |panel, rows| {
                    // SAFETY: each panel is written by its own task.
                    interleave(rows, unsafe { out.slice(panel * len, len) }, f32::from_le_bytes);
                })?;
            }
            Elements::F16(data) | Elements::BF16(data) => {
                let out = Shared::new(data);
                rows_of.each_panel(pool, LANES, |panel, rows| {
                    // SAFETY: each panel is written by its own task.
                    interleave(rows, unsafe { out.slice(panel * len, len) }, u16::from_le_bytes);
                })?;
            }
        }
        Ok(Self { rows, columns, float, data })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.rows.next_multiple_of(LANES) * self.columns * self.float.bytes()
    }

    /// The products of a panel's rows with up to [`MOST`] rows of activations.
    pub(crate) fn panel_times(
        &self,
        level: Level,
        panel: usize,
        x: &[&[f32]],
        out: &mut [[f32; LANES]; MOST],
    ) {
        out[..x.len()].fill([0.0; LANES]);
        let len = LANES * self.columns;
        let out = out.as_flattened_mut();
        kernel::panel_times(level, self.data.view(panel * len, len), LANES, x, out, LANES);
    }

    /// The same of this panel and the next with [`MOST`] rows; `false`, and nothing done, where the machine
    /// is better given one at a time.
    pub(crate) fn pair_times(
        &self,
        level: Level,
        panel: usize,
        x: &[&[f32]; MOST],
        out: &mut [[[f32; LANES]; MOST]; 2],
    ) -> bool {
        let len = LANES * self.columns;
        let w = [panel, panel + 1].map(|panel| self.data.view(panel * len, len));
        kernel::pair_times(level, w, x, out.as_flattened_mut().as_flattened_mut())
    }

    /// A row as floats: `[columns]`.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (panel, lane) = (row / LANES, row % LANES);
        for (column, out) in out[..self.columns].iter_mut().enumerate() {
            let at = (panel * self.columns + column) * LANES + lane;
            *out = match &self.data {
                Elements::F32(data) => data[at],
                Elements::F16(data) => f16::from_bits(data[at]).to_f32(),
                Elements::BF16(data) => bf16::from_bits(data[at]).to_f32(),
            };
        }
    }
}

impl std::fmt::Debug for DenseMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DenseMatrix {}x{} {:?}", self.rows, self.columns, self.float)
    }
}

#[cfg(test)]
mod tests;
