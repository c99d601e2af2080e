//! Weights in eight bits (E4M3) with scales beside them, as they are read: as floats of 32 bits.
//!
//! Four bits of exponent with a bias of 7, three of mantissa, no infinities; 0x7f and 0xff are no number (Micikevicius et
//! al., "FP8 formats for deep learning", 2022).

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Every value of E4M3, by its byte.
static VALUES: [f32; 256] = values();

const fn values() -> [f32; 256] {
    let mut all = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (exponent, mantissa) = ((byte >> 3) & 15, (byte & 7) as f32);
        let magnitude = match (byte & 0x7f, exponent) {
            (0x7f, _) => f32::NAN,
            // 2^-9 each.
            (_, 0) => mantissa / 512.0,
            // 2^(exponent - 7), from 2^-6 to 2^8.
            _ => (1.0 + mantissa / 8.0) * (1u32 << exponent) as f32 / 128.0,
        };
        all[byte] = if byte & 0x80 != 0 { -magnitude } else { magnitude };
        byte += 1;
    }
    all
}

/// What the values of a matrix are multiplied by: one number for each block of it.
#[derive(Debug, Clone)]
pub(crate) struct Scales {
    /// Row by row of blocks.
    pub(crate) values: Vec<f32>,
    /// Rows and columns of a block.
    pub(crate) block: [usize; 2],
    /// Blocks of a row.
    pub(crate) across: usize,
}

/// A part of a stored matrix.
#[derive(Debug, Clone)]
pub(super) struct EightBits {
    scales: Arc<Scales>,
    /// Columns of the stored matrix.
    columns: usize,
    /// Where the part begins.
    first: [usize; 2],
}

impl EightBits {
    pub(super) fn new(scales: Scales, columns: usize) -> Self {
        Self { scales: Arc::new(scales), columns, first: [0, 0] }
    }

    /// The part that begins so many rows and columns further on.
    pub(super) fn from(&self, rows: usize, columns: usize) -> Self {
        Self { first: [self.first[0] + rows, self.first[1] + columns], ..self.clone() }
    }

    /// Rows from `row` on, of `columns` each, as little-endian floats. `start`: the matrix's first byte in the file.
    pub(super) fn read(
        &self,
        (file, start): (&File, u64),
        (row, columns): (usize, usize),
        into: &mut [u8],
        read: &AtomicU64,
    ) -> io::Result<()> {
        let [first_row, first_column] = self.first;
        let mut bytes = vec![0; columns];
        for (at, into) in into.chunks_exact_mut(columns * 4).enumerate() {
            let row = first_row + row + at;
            file.read_exact_at(&mut bytes, start + (row * self.columns + first_column) as u64)?;
            read.fetch_add(columns as u64, Ordering::Relaxed);
            let [rows_each, columns_each] = self.scales.block;
            let scales = &self.scales.values[row / rows_each * self.scales.across..][..self.scales.across];
            for (column, (byte, into)) in bytes.iter().zip(into.chunks_exact_mut(4)).enumerate() {
                let scale = scales[(first_column + column) / columns_each];
                into.copy_from_slice(&(VALUES[usize::from(*byte)] * scale).to_le_bytes());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_its_number() {
        let check = |byte: u8, value: f32| assert_eq!(VALUES[usize::from(byte)], value, "{byte:#x}");
        check(0x00, 0.0);
        check(0x01, 0.001_953_125);
        check(0x07, 0.013_671_875);
        check(0x08, 0.015_625);
        check(0x38, 1.0);
        check(0x39, 1.125);
        check(0x40, 2.0);
        check(0x7e, 448.0);
        check(0xfe, -448.0);
        check(0xb8, -1.0);
        assert!(VALUES[0x7f].is_nan() && VALUES[0xff].is_nan());
        // Each is larger than the one before.
        assert!(VALUES[..0x7f].windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn a_part_of_a_matrix_has_its_own_scales() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        // Three rows of four ones, after two bytes of something else; blocks of two rows and three columns.
        std::fs::write(&path, [&[9, 9][..], &[0x38; 12]].concat()).unwrap();
        let file = File::open(&path).unwrap();
        let scales = Scales { values: vec![1.0, 2.0, 3.0, 4.0], block: [2, 3], across: 2 };
        let whole = EightBits::new(scales, 4);
        let read = |of: &EightBits, row: usize, columns: usize, rows: usize| {
            let (mut into, count) = (vec![0; rows * columns * 4], AtomicU64::new(0));
            of.read((&file, 2), (row, columns), &mut into, &count).unwrap();
            assert_eq!(count.into_inner(), (rows * columns) as u64);
            into.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(read(&whole, 0, 4, 3), [1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 2.0, 3.0, 3.0, 3.0, 4.0]);
        assert_eq!(read(&whole, 2, 4, 1), [3.0, 3.0, 3.0, 4.0]);
        assert_eq!(read(&whole.from(0, 2), 1, 2, 2), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(read(&whole.from(1, 0).from(1, 3), 0, 1, 1), [4.0]);
    }
}
