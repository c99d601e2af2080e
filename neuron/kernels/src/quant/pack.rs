//! From the blocks that GGUF files hold to panels.
//!
//! Nothing is quantised again: values keep their bits. A K-quant's scale of a group, the product of two
//! stored numbers, is rounded to a half, which is 2^-11 of it at most. Layouts of blocks are ggml's
//! (`ggml-common.h`, `ggml-quants.c`).

use std::io;

use half::{
    f16,
    slice::{HalfBitsSliceExt, HalfFloatSliceExt},
};

use super::{BLOCK, Layout, PANEL, QuantMatrix, portable};
use crate::{
    Pool,
    shared::Shared,
    stored::{Order, Rows, Stored},
};

/// A format of GGUF's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

/// A block, decoded: unsigned values, and scale and minimum of each of the layout's groups, halves.
pub(super) struct Decoded {
    pub(super) values: [u8; 256],
    pub(super) scales: [u16; 16],
    pub(super) mins: [u16; 16],
}

impl Default for Decoded {
    fn default() -> Self {
        Self { values: [0; 256], scales: [0; 16], mins: [0; 16] }
    }
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Elements and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// How its values are held.
    pub fn layout(self) -> Layout {
        match self {
            Self::Q4_0 => Layout::Q4,
            Self::Q4_1 | Self::Q4K => Layout::Q4_MIN,
            Self::Q5_0 => Layout::Q5,
            Self::Q5_1 | Self::Q5K => Layout::Q5_MIN,
            Self::Q8_0 => Layout::Q8,
            Self::Q2K => Layout::Q4_16_MIN,
            Self::Q3K => Layout::Q4_16,
            Self::Q6K => Layout::Q6_16,
        }
    }

    /// Bytes that a matrix of this format takes once it is packed.
    pub fn packed_bytes(self, rows: u64, columns: u64) -> u64 {
        self.layout().packed_bytes(rows, columns)
    }

    /// A row of blocks into its place in a panel.
    #[inline(always)]
    fn put_row(self, row: usize, blocks: &[u8], out: &mut [u8]) {
        let ((elements, len), layout) = (self.block(), self.layout());
        let mut decoded = Decoded::default();
        let records = out.chunks_exact_mut(elements / BLOCK * layout.record());
        for (block, out) in blocks.chunks_exact(len).zip(records) {
            self.decode(block, &mut decoded);
            decoded.put(layout, elements / BLOCK, row, out);
        }
    }

    #[inline(always)]
    pub(super) fn decode(self, block: &[u8], out: &mut Decoded) {
        let bits = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        let half = |at: usize| f16::from_bits(bits(at)).to_f32();
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => {
                let min = matches!(self, Self::Q4_1 | Self::Q5_1);
                out.scales[0] = bits(0);
                let mut at = 2;
                if min {
                    out.mins[0] = bits(2);
                    at = 4;
                }
                let mut fifth = 0;
                if matches!(self, Self::Q5_0 | Self::Q5_1) {
                    fifth = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
                    at += 4;
                }
                for (i, byte) in block[at..at + 16].iter().enumerate() {
                    out.values[i] = (byte & 15) | (((fifth >> i) & 1) << 4) as u8;
                    out.values[i + 16] = (byte >> 4) | (((fifth >> (i + 16)) & 1) << 4) as u8;
                }
            }
            Self::Q8_0 => {
                out.scales[0] = bits(0);
                for (value, byte) in out.values.iter_mut().zip(&block[2..34]) {
                    *value = byte.wrapping_add(128);
                }
            }
            Self::Q2K => two(block, half(80), half(82), out),
            Self::Q3K => three(block, half(108), out),
            Self::Q4K | Self::Q5K => four_or_five(self == Self::Q5K, block, half(0), half(2), out),
            Self::Q6K => six(block, half(208), out),
        }
    }
}

fn two(block: &[u8], scale: f32, min: f32, out: &mut Decoded) {
    let (packed, bits) = (&block[..16], &block[16..80]);
    let (mut scales, mut mins) = ([0.0; 16], [0.0; 16]);
    for (group, packed) in packed.iter().enumerate() {
        scales[group] = scale * f32::from(packed & 15);
        mins[group] = -min * f32::from(packed >> 4);
        let (part, shift, half) = (group / 8, group % 8 / 2 * 2, group % 2);
        for i in 0..16 {
            out.values[group * 16 + i] = (bits[part * 32 + half * 16 + i] >> shift) & 3;
        }
    }
    halves(&scales, &mut out.scales);
    halves(&mins, &mut out.mins);
}

fn three(block: &[u8], scale: f32, out: &mut Decoded) {
    let (thirds, bits, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let mut scales = [0.0; 16];
    for group in 0..16 {
        // Four bits in the first eight bytes, two in the last four.
        let low = if group < 8 { packed[group] & 15 } else { packed[group - 8] >> 4 };
        let high = (packed[8 + group % 4] >> (group / 4 * 2)) & 3;
        scales[group] = scale * (f32::from(low | (high << 4)) - 32.0);
        let (part, shift, half) = (group / 8, group % 8 / 2, group % 2);
        for i in 0..16 {
            let low = (bits[part * 32 + half * 16 + i] >> (shift * 2)) & 3;
            let third = (thirds[half * 16 + i] >> (part * 4 + shift)) & 1;
            out.values[group * 16 + i] = low | (third << 2);
        }
    }
    halves(&scales, &mut out.scales);
}

fn four_or_five(five: bool, block: &[u8], scale: f32, min: f32, out: &mut Decoded) {
    let (packed, fifths) = (&block[4..16], &block[16..48]);
    let (mut scales, mut mins) = ([0.0; 16], [0.0; 16]);
    let nibbles = if five { &block[48..176] } else { &block[16..144] };
    for group in 0..8 {
        let (s, m) = match group {
            0..4 => (packed[group] & 63, packed[group + 4] & 63),
            _ => (
                (packed[group + 4] & 15) | ((packed[group - 4] >> 6) << 4),
                (packed[group + 4] >> 4) | ((packed[group] >> 6) << 4),
            ),
        };
        scales[group] = scale * f32::from(s);
        mins[group] = -min * f32::from(m);
        for i in 0..32 {
            let byte = nibbles[group / 2 * 32 + i];
            let low = if group % 2 == 0 { byte & 15 } else { byte >> 4 };
            let fifth = if five { (fifths[i] >> group) & 1 } else { 0 };
            out.values[group * 32 + i] = low | (fifth << 4);
        }
    }
    halves(&scales, &mut out.scales);
    halves(&mins, &mut out.mins);
}

fn six(block: &[u8], scale: f32, out: &mut Decoded) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    for part in 0..2 {
        for i in 0..32 {
            let high = high[part * 32 + i];
            let low = [low[part * 64 + i], low[part * 64 + i + 32]];
            for quarter in 0..4 {
                let nibble = if quarter < 2 { low[quarter] & 15 } else { low[quarter - 2] >> 4 };
                out.values[part * 128 + quarter * 32 + i] = nibble | (((high >> (quarter * 2)) & 3) << 4);
            }
        }
    }
    let scales: [f32; 16] = std::array::from_fn(|n| scale * f32::from(scales[n].cast_signed()));
    halves(&scales, &mut out.scales);
}

/// All at once: one by one each asks anew what instructions there are.
fn halves(from: &[f32; 16], to: &mut [u16; 16]) {
    to.reinterpret_cast_mut::<f16>().convert_from_f32_slice(from);
}

impl QuantMatrix {
    /// Packs the blocks of a `[rows, columns]` matrix as they lie in a file. Errors where they cannot be read.
    ///
    /// Panics where `stored` is not exactly the matrix: a caller has checked the file's header.
    pub fn pack(
        pool: &mut Pool,
        source: Source,
        rows: usize,
        columns: usize,
        stored: &dyn Stored,
        order: Order,
    ) -> io::Result<Self> {
        let (elements, block_len) = source.block();
        assert!(columns.is_multiple_of(elements), "{columns} columns of {source:?}");
        let row_len = columns / elements * block_len;
        let rows = Rows { stored, count: rows, row_len, order };
        // Once for each format, so that all that depends on it is worked out when this is compiled.
        macro_rules! of {
            ($($source:ident)*) => {
                match source {
                    $(Source::$source => Self::filled(pool, source.layout(), columns, rows, |row, bytes, out| {
                        Source::$source.put_row(row, bytes, out);
                    }),)*
                }
            };
        }
        of!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K)
    }

    /// `put(row of its panel, what is stored of it, the panel)` for every row, on any thread.
    pub(super) fn filled(
        pool: &mut Pool,
        layout: Layout,
        columns: usize,
        rows: Rows<'_>,
        put: impl Fn(usize, &[u8], &mut [u8]) + Sync,
    ) -> io::Result<Self> {
        let panel_len = columns / BLOCK * layout.record();
        let mut data = vec![0; rows.count.div_ceil(PANEL) * panel_len];
        let out = Shared::new(&mut data);
        rows.each_panel(pool, PANEL, |panel, rows| {
            // SAFETY: each panel is written by its own task.
            let out = unsafe { out.slice(panel * panel_len, panel_len) };
            rows.iter().enumerate().for_each(|(row, bytes)| put(row, bytes, out));
        })?;
        Ok(Self { rows: rows.count, columns, layout, data })
    }
}

impl Decoded {
    /// As one row's values of `records`.
    #[inline(always)]
    pub(super) fn put(&self, layout: Layout, records: usize, row: usize, out: &mut [u8]) {
        let blocks = self.values.as_chunks::<BLOCK>().0.iter().take(records);
        for ((n, record), values) in out.chunks_exact_mut(layout.record()).enumerate().zip(blocks) {
            for group in 0..layout.groups() {
                let of_block = n * layout.groups() + group;
                let at = portable::head(layout, group, row, false);
                record[at].copy_from_slice(&self.scales[of_block].to_le_bytes());
                if layout.min {
                    let at = portable::head(layout, group, row, true);
                    record[at].copy_from_slice(&self.mins[of_block].to_le_bytes());
                }
            }
            portable::put(layout, record, row, values);
        }
    }
}
