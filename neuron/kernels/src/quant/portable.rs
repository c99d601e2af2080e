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

/// Stores an unsigned value in a record that is zero there.
pub(super) fn put(layout: Layout, record: &mut [u8], row: usize, column: usize, value: u8) {
    debug_assert!(u32::from(value) < 1 << layout.bits);
    let values = &mut record[layout.head()..];
    let (byte, shift) = low(layout, row, column);
    if layout.bits == 8 {
        values[byte] = value;
        return;
    }
    values[byte] |= (value & 15) << shift;
    if layout.bits > 4 {
        let (byte, shift) = high(layout, row, column);
        values[byte] |= (value >> 4) << shift;
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
