//! Matrices of 4 to 8 bits, eight rows to a panel.
//!
//! A panel holds eight rows interleaved: for every 32 columns a record of the rows' scales (and minima,
//! where the format has them) and of their values, ordered so that one 32-byte vector holds four
//! consecutive columns of all eight rows. A kernel multiplies it with four activations, repeated: no
//! horizontal sum anywhere, and a row's result does not depend on how many rows of activations there are.

mod fit;
pub(crate) mod kernel;
mod pack;
mod planes;
mod portable;

pub use fit::Target;
pub use pack::Source;
pub use planes::{Planes, Recipe, widen};

use crate::{acts::Row, cpu::Level};

/// Rows of a panel.
pub const PANEL: usize = 8;
/// Columns of a record.
pub const BLOCK: usize = 32;
/// Rows of activations that one pass over a panel takes.
pub(crate) const MOST: usize = 4;

/// How values are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// 4, 5, 6 or 8; values are stored without sign.
    pub(crate) bits: usize,
    /// Columns to a scale: 16 or 32.
    pub(crate) group: usize,
    /// `true`: x = scale * q + minimum. `false`: x = scale * (q - offset).
    pub(crate) min: bool,
    pub(crate) offset: u8,
}

impl Layout {
    pub(crate) const Q4: Self = Self { bits: 4, group: 32, min: false, offset: 8 };
    pub(crate) const Q4_MIN: Self = Self { bits: 4, group: 32, min: true, offset: 0 };
    pub(crate) const Q4_16: Self = Self { bits: 4, group: 16, min: false, offset: 4 };
    pub(crate) const Q4_16_MIN: Self = Self { bits: 4, group: 16, min: true, offset: 0 };
    pub(crate) const Q5: Self = Self { bits: 5, group: 32, min: false, offset: 16 };
    pub(crate) const Q5_MIN: Self = Self { bits: 5, group: 32, min: true, offset: 0 };
    pub(crate) const Q6_16: Self = Self { bits: 6, group: 16, min: false, offset: 32 };
    pub(crate) const Q8: Self = Self { bits: 8, group: 32, min: false, offset: 128 };

    /// All that there are.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 8] =
        [Self::Q4, Self::Q4_MIN, Self::Q4_16, Self::Q4_16_MIN, Self::Q5, Self::Q5_MIN, Self::Q6_16, Self::Q8];

    pub(crate) const fn groups(self) -> usize {
        BLOCK / self.group
    }

    /// Bytes of a record's scales and minima.
    pub(crate) const fn head(self) -> usize {
        self.groups() * PANEL * 2 * if self.min { 2 } else { 1 }
    }

    /// Bytes that a matrix held so takes.
    pub fn packed_bytes(self, rows: u64, columns: u64) -> u64 {
        rows.div_ceil(PANEL as u64) * columns.div_ceil(BLOCK as u64) * self.record() as u64
    }

    /// Bytes of a record: 8 rows of 32 columns.
    pub const fn record(self) -> usize {
        self.head() + PANEL * BLOCK * self.bits / 8
    }
}

/// A matrix of packed values, `[rows, columns]`.
pub struct QuantMatrix {
    rows: usize,
    columns: usize,
    layout: Layout,
    data: Vec<u8>,
}

impl QuantMatrix {
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    pub(crate) fn blocks(&self) -> usize {
        self.columns.div_ceil(BLOCK)
    }

    pub(crate) fn panel(&self, panel: usize) -> &[u8] {
        let len = self.blocks() * self.layout.record();
        &self.data[panel * len..(panel + 1) * len]
    }

    /// The products of a panel's rows with up to [`MOST`] rows of activations: `[x.len(), PANEL]`.
    pub(crate) fn panel_times(
        &self,
        level: Level,
        panel: usize,
        x: &[Row<'_>],
        out: &mut [[f32; PANEL]; MOST],
    ) {
        debug_assert!(x.len() <= MOST && x.iter().all(|row| row.scales.len() == self.blocks()));
        kernel::panel_times(level, self.layout, self.panel(panel), x, out);
    }

    /// A row as floats: `[columns]`.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let panel = self.panel(row / PANEL);
        let record = self.layout.record();
        for (block, out) in out[..self.columns].chunks_mut(BLOCK).enumerate() {
            let record = &panel[block * record..(block + 1) * record];
            for (column, out) in out.iter_mut().enumerate() {
                *out = portable::value(self.layout, record, row % PANEL, column);
            }
        }
    }
}

impl std::fmt::Debug for QuantMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "QuantMatrix {}x{} {:?}", self.rows, self.columns, self.layout)
    }
}

#[cfg(test)]
mod tests;
