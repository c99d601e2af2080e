//! The same values for devices that want a row to lie by itself: for each 32 columns of a row low bits, the bits above the
//! fourth, and scales, in three planes.

use std::io;

use half::f16;

use super::{BLOCK, Layout, Source, Target, fit, pack::Decoded};
use crate::{
    Pool,
    dense::Float,
    shared::Shared,
    stored::{Order, Rows, Stored},
};

/// Rows of a matrix; of floats all is in `low`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Planes {
    /// Of 4 to 6 bits 16 bytes a group: in byte n the low bits of column n, and above them those of column n + 16. Of 8 bits
    /// 32 bytes, with sign.
    pub low: Vec<u8>,
    /// Of 5 bits 4 bytes a group, column n in bit n. Of 6 bits 8: of columns 4w + j bits 2w and 2w + 1 of byte j, of
    /// columns 16 + 4w + j those of byte 4 + j.
    pub high: Vec<u8>,
    /// Halves: scale, or scale and minimum, of each 16 or 32 columns.
    pub scales: Vec<u8>,
}

impl Layout {
    /// Bytes of 32 columns in each plane.
    pub fn planes(self) -> [usize; 3] {
        let high = match self.bits {
            5 => 4,
            6 => 8,
            _ => 0,
        };
        [if self.bits == 8 { 32 } else { 16 }, high, self.groups() * if self.min { 4 } else { 2 }]
    }

    /// As the kernels of devices call it.
    pub fn name(self) -> &'static str {
        match (self.bits, self.group, self.min) {
            (4, 32, false) => "q4",
            (4, 32, true) => "q4_min",
            (4, _, false) => "q4_16",
            (4, _, true) => "q4_16_min",
            (5, _, false) => "q5",
            (5, _, true) => "q5_min",
            (6, ..) => "q6_16",
            _ => "q8",
        }
    }
}

/// What rows are made of and what becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipe {
    Quant(Source),
    Float(Float),
    /// Floats that are quantised.
    Fit(Float, Target),
}

impl Recipe {
    /// How values are held; `None`: as the floats that they are.
    pub fn layout(self) -> Option<Layout> {
        match self {
            Self::Quant(source) => Some(source.layout()),
            Self::Float(_) => None,
            Self::Fit(_, target) => Some(target.layout()),
        }
    }

    fn row_len(self, columns: usize) -> usize {
        match self {
            Self::Quant(source) => {
                let (elements, bytes) = source.block();
                columns / elements * bytes
            }
            Self::Float(float) | Self::Fit(float, _) => columns * float.bytes(),
        }
    }
}

impl Planes {
    /// Rows of a `[rows, columns]` matrix as they lie in a file. Errors where they cannot be read.
    ///
    /// Panics where `stored` is not exactly the matrix: a caller has checked the file's header.
    pub fn read(
        pool: &mut Pool,
        recipe: Recipe,
        [count, columns]: [usize; 2],
        stored: &dyn Stored,
        order: Order,
    ) -> io::Result<Self> {
        let rows = Rows { stored, count, row_len: recipe.row_len(columns), order };
        let each = recipe.layout().map_or([rows.row_len, 0, 0], |layout| {
            assert!(columns.is_multiple_of(BLOCK), "{columns} columns in groups");
            layout.planes().map(|bytes| bytes * (columns / BLOCK))
        });
        let mut planes = Self {
            low: vec![0; count * each[0]],
            high: vec![0; count * each[1]],
            scales: vec![0; count * each[2]],
        };
        let [low, high, scales] =
            [&mut planes.low, &mut planes.high, &mut planes.scales].map(|p| Shared::new(&mut p[..]));
        rows.each_panel(pool, 1, |row, bytes| {
            // SAFETY: each row is written by its own task.
            let out = unsafe {
                [
                    low.slice(row * each[0], each[0]),
                    high.slice(row * each[1], each[1]),
                    scales.slice(row * each[2], each[2]),
                ]
            };
            put_row(recipe, bytes[0], out);
        })?;
        Ok(planes)
    }
}

fn put_row(recipe: Recipe, bytes: &[u8], [low, high, scales]: [&mut [u8]; 3]) {
    let Some(layout) = recipe.layout() else {
        low.copy_from_slice(bytes);
        return;
    };
    let each = layout.planes();
    let mut decoded = Decoded::default();
    let mut floats = [0.0; BLOCK];
    let blocks = match recipe {
        Recipe::Quant(source) => source.block().0 / BLOCK,
        _ => 1,
    };
    let groups = low.chunks_exact_mut(each[0]).zip(scales.chunks_exact_mut(each[2]));
    for (n, (low, scales)) in groups.enumerate() {
        let within = n % blocks;
        if within == 0 {
            match recipe {
                Recipe::Quant(source) => {
                    let len = source.block().1;
                    source.decode(&bytes[n / blocks * len..][..len], &mut decoded);
                }
                Recipe::Fit(float, _) | Recipe::Float(float) => {
                    float.widen(bytes, n * BLOCK, &mut floats);
                    fit::quantise(layout, &floats, &mut decoded);
                }
            }
        }
        let values = &decoded.values[within * BLOCK..][..BLOCK];
        put_values(layout, values, low, &mut high[n * each[1]..][..each[1]]);
        for group in 0..layout.groups() {
            let of = within * layout.groups() + group;
            let scale = decoded.scales[of].to_le_bytes();
            if layout.min {
                scales[4 * group..][..2].copy_from_slice(&scale);
                scales[4 * group + 2..][..2].copy_from_slice(&decoded.mins[of].to_le_bytes());
            } else {
                scales[2 * group..][..2].copy_from_slice(&scale);
            }
        }
    }
}

fn put_values(layout: Layout, values: &[u8], low: &mut [u8], high: &mut [u8]) {
    if layout.bits == 8 {
        // With its sign: 128 was 0.
        low.iter_mut().zip(values).for_each(|(out, value)| *out = value ^ 0x80);
        return;
    }
    for (n, out) in low.iter_mut().enumerate() {
        *out = (values[n] & 15) | (values[n + 16] << 4);
    }
    for (column, value) in values.iter().enumerate() {
        let above = value >> 4;
        match layout.bits {
            5 => high[column / 8] |= above << (column % 8),
            6 => high[column / 16 * 4 + column % 4] |= above << (column % 16 / 4 * 2),
            _ => {}
        }
    }
}

/// The floats that planes stand for, for tests of those who compute with them.
pub fn widen(layout: Layout, planes: &Planes, columns: usize) -> Vec<f32> {
    let [low_len, high_len, scales_len] = layout.planes();
    let half = |bytes: &[u8], n: usize| f16::from_le_bytes([bytes[2 * n], bytes[2 * n + 1]]).to_f32();
    let groups = planes.low.len() / low_len;
    let mut out = Vec::with_capacity(groups * BLOCK);
    for group in 0..groups {
        let low = &planes.low[group * low_len..][..low_len];
        let high = &planes.high[group * high_len..][..high_len];
        let scales = &planes.scales[group * scales_len..][..scales_len];
        for column in 0..BLOCK {
            let part = column / layout.group;
            let value = match layout.bits {
                8 => f32::from(low[column].cast_signed()),
                bits => {
                    let low = if column < 16 { low[column] & 15 } else { low[column - 16] >> 4 };
                    let above = match bits {
                        5 => (high[column / 8] >> (column % 8)) & 1,
                        6 => (high[column / 16 * 4 + column % 4] >> (column % 16 / 4 * 2)) & 3,
                        _ => 0,
                    };
                    f32::from(low | (above << 4)) - f32::from(layout.offset)
                }
            };
            out.push(match layout.min {
                true => half(scales, 2 * part) * value + half(scales, 2 * part + 1),
                false => half(scales, part) * value,
            });
        }
    }
    debug_assert!(out.len().is_multiple_of(columns));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::QuantMatrix;

    /// Planes stand for the very values that panels stand for, whatever they were made of and in whichever order.
    #[test]
    fn planes_hold_what_panels_hold() {
        let mut pool = Pool::new("test", 2).unwrap();
        let mut random = 9u32;
        let mut byte = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Exponents that keep halves and floats numbers.
            (random >> 24) as u8 & 0x3f
        };
        let (rows, columns) = (24, 512);
        for order in [Order::Stored, Order::Unpaired { head: 12 }] {
            for source in Source::ALL {
                let recipe = Recipe::Quant(source);
                let bytes: Vec<u8> = (0..rows * recipe.row_len(columns)).map(|_| byte()).collect();
                let panels = QuantMatrix::pack(&mut pool, source, rows, columns, &bytes, order).unwrap();
                same(&mut pool, recipe, [rows, columns], &bytes, order, &panels);
            }
            for target in Target::ALL {
                let recipe = Recipe::Fit(Float::F16, target);
                let bytes: Vec<u8> = (0..rows * recipe.row_len(columns)).map(|_| byte()).collect();
                let panels =
                    QuantMatrix::quantise(&mut pool, target, Float::F16, rows, columns, &bytes, order)
                        .unwrap();
                same(&mut pool, recipe, [rows, columns], &bytes, order, &panels);
            }
            let bytes: Vec<u8> = (0..rows * columns * 2).map(|_| byte()).collect();
            let planes =
                Planes::read(&mut pool, Recipe::Float(Float::BF16), [rows, columns], &bytes, order).unwrap();
            for row in 0..rows {
                let from = order.from(row) * columns * 2;
                assert_eq!(planes.low[row * columns * 2..][..columns * 2], bytes[from..][..columns * 2]);
            }
        }
    }

    fn same(
        pool: &mut Pool,
        recipe: Recipe,
        [rows, columns]: [usize; 2],
        bytes: &Vec<u8>,
        order: Order,
        panels: &QuantMatrix,
    ) {
        let layout = recipe.layout().unwrap();
        let planes = Planes::read(pool, recipe, [rows, columns], bytes, order).unwrap();
        let [low, high, scales] = layout.planes().map(|each| rows * columns / BLOCK * each);
        assert_eq!([planes.low.len(), planes.high.len(), planes.scales.len()], [low, high, scales]);
        let ours = widen(layout, &planes, columns);
        let mut theirs = vec![0.0; columns];
        for row in 0..rows {
            panels.row(row, &mut theirs);
            assert_eq!(ours[row * columns..][..columns], theirs[..], "{recipe:?} row {row}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        struct Broken;
        impl Stored for Broken {
            fn len(&self) -> usize {
                64
            }
            fn read(&self, _: usize, _: &mut [u8]) -> io::Result<()> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        let mut pool = Pool::new("test", 1).unwrap();
        let read = Planes::read(&mut pool, Recipe::Float(Float::F16), [1, 32], &Broken, Order::Stored);
        assert_eq!(read.unwrap_err().to_string(), "the disk is gone");
    }
}
