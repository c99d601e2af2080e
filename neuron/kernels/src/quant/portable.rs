//! The layout in plain Rust: what the vector kernels are held against.

use half::f16;

use super::{BLOCK, Layout, PANEL};
use crate::{acts::Row, ops::fma};

/// Where column `column` of row `row` lies among a record's values: the byte of its low four bits (all
/// eight bits in 8-bit layouts) and their shift.
fn low(layout: Layout, row: usize, column: usize) -> (usize, u32) {
    let (quad, within) = (column / 4, column % 4);
    if layout.bits == 8 {
        return (quad * 32 + row * 4 + within, 0);
    }
    ((quad / 2) * 32 + row * 4 + within, if quad % 2 == 0 { 0 } else { 4 })
}

/// The same of the bits above four: byte, shift.
fn high(layout: Layout, row: usize, column: usize) -> (usize, u32) {
    let (quad, within) = (column / 4, column % 4);
    let each = layout.bits - 4;
    let quads = 8 / each;
    (128 + (quad / quads) * 32 + row * 4 + within, (quad % quads * each) as u32)
}

/// Stores a row's unsigned values of a record, all of them.
#[inline(always)]
pub(super) fn put(layout: Layout, record: &mut [u8], row: usize, values: &[u8; BLOCK]) {
    debug_assert!(values.iter().all(|value| u32::from(*value) < 1 << layout.bits));
    // Four columns at a time, as they lie side by side in a vector.
    let quads = values.as_chunks::<4>().0;
    let quad = |n: usize| u32::from_le_bytes(quads[n]);
    let record = &mut record[layout.head()..];
    let mut put = |vector: usize, word: u32| {
        let at = (vector * PANEL + row) * 4;
        record[at..at + 4].copy_from_slice(&word.to_le_bytes());
    };
    if layout.bits == 8 {
        (0..8).for_each(|n| put(n, quad(n)));
        return;
    }
    const NIBBLES: u32 = 0x0F0F_0F0F;
    (0..4).for_each(|n| put(n, (quad(2 * n) & NIBBLES) | ((quad(2 * n + 1) & NIBBLES) << 4)));
    if layout.bits > 4 {
        let each = layout.bits - 4;
        let (quads, mask) = (8 / each, 0x0101_0101 * ((1 << each) - 1));
        for n in 0..each {
            let high = |i: usize| ((quad(n * quads + i) >> 4) & mask) << (i * each);
            put(4 + n, (0..quads).map(high).fold(0, |word, high| word | high));
        }
    }
}

fn get(layout: Layout, record: &[u8], row: usize, column: usize) -> u8 {
    let values = &record[layout.head()..];
    let (byte, shift) = low(layout, row, column);
    if layout.bits == 8 {
        return values[byte];
    }
    let mut value = (values[byte] >> shift) & 15;
    if layout.bits > 4 {
        let (byte, shift) = high(layout, row, column);
        value |= ((values[byte] >> shift) & ((1 << (layout.bits - 4)) - 1)) << 4;
    }
    value
}

/// Bytes of a group's scale (`minimum`: of its minimum) of a row.
#[inline(always)]
pub(super) fn head(layout: Layout, group: usize, row: usize, minimum: bool) -> std::ops::Range<usize> {
    let index = if minimum { layout.groups() + group } else { group };
    let at = (index * PANEL + row) * 2;
    at..at + 2
}

fn half(record: &[u8], at: std::ops::Range<usize>) -> f32 {
    f16::from_le_bytes([record[at.start], record[at.start + 1]]).to_f32()
}

/// Scale and what is added to scale * q.
fn scale_and_min(layout: Layout, record: &[u8], group: usize, row: usize) -> (f32, f32) {
    let scale = half(record, head(layout, group, row, false));
    let min = match layout.min {
        true => half(record, head(layout, group, row, true)),
        false => scale * -f32::from(layout.offset),
    };
    (scale, min)
}

/// A value as it was before it was packed.
pub(super) fn value(layout: Layout, record: &[u8], row: usize, column: usize) -> f32 {
    let (scale, min) = scale_and_min(layout, record, column / layout.group, row);
    fma(scale, f32::from(get(layout, record, row, column)), min)
}

/// The products of a panel with one row of activations.
pub(super) fn panel_times(layout: Layout, panel: &[u8], x: Row<'_>) -> [f32; PANEL] {
    let mut out = [0.0; PANEL];
    for (block, record) in panel.chunks_exact(layout.record()).enumerate() {
        for group in 0..layout.groups() {
            let sum = if layout.groups() == 1 { x.sums[block] } else { x.half_sums[block * 2 + group] };
            for (row, out) in out.iter_mut().enumerate() {
                let columns = group * layout.group..(group + 1) * layout.group;
                let dot: i32 = columns
                    .map(|c| i32::from(get(layout, record, row, c)) * i32::from(x.values[block * BLOCK + c]))
                    .sum();
                let (scale, min) = scale_and_min(layout, record, group, row);
                *out = fma(dot as f32, scale * x.scales[block], *out);
                *out = fma(min, sum, *out);
            }
        }
    }
    out
}
