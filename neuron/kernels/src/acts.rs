//! Activations as the quantised kernels want them: 8 bits, with a scale for every 32.

use crate::{Pool, ops, quant::BLOCK, shared::Shared};

/// Rows of 8-bit activations.
#[derive(Debug, Default)]
pub(crate) struct Acts {
    blocks: usize,
    /// [rows, blocks, 32]
    values: Vec<i8>,
    /// [rows, blocks]
    scales: Vec<f32>,
    /// Sums of the values, times their scale: [rows, blocks]
    sums: Vec<f32>,
    /// The same of each half block: [rows, blocks, 2]
    half_sums: Vec<f32>,
}

/// One row, for a kernel.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) values: &'a [i8],
    pub(crate) scales: &'a [f32],
    pub(crate) sums: &'a [f32],
    pub(crate) half_sums: &'a [f32],
}

impl Acts {
    pub(crate) fn row(&self, row: usize) -> Row<'_> {
        let (from, to) = (row * self.blocks, (row + 1) * self.blocks);
        Row {
            values: &self.values[from * BLOCK..to * BLOCK],
            scales: &self.scales[from..to],
            sums: &self.sums[from..to],
            half_sums: &self.half_sums[from * 2..to * 2],
        }
    }

    /// Quantises `[rows, columns]` in `tasks` parts; columns up to the next whole block are zero.
    pub(crate) fn fill(&mut self, pool: &mut Pool, tasks: usize, from: &[f32], rows: usize, columns: usize) {
        let blocks = columns.div_ceil(BLOCK);
        self.blocks = blocks;
        self.values.resize(rows * blocks * BLOCK, 0);
        self.scales.resize(rows * blocks, 0.0);
        self.sums.resize(rows * blocks, 0.0);
        self.half_sums.resize(rows * blocks * 2, 0.0);
        let (values, scales) = (Shared::new(&mut self.values), Shared::new(&mut self.scales));
        let (sums, half_sums) = (Shared::new(&mut self.sums), Shared::new(&mut self.half_sums));
        let each = rows.div_ceil(tasks.max(1));
        pool.run(rows.div_ceil(each.max(1)), |task| {
            let (first, last) = (task * each, ((task + 1) * each).min(rows));
            let (at, count) = (first * blocks, (last - first) * blocks);
            // SAFETY: each task has rows of its own.
            let (values, scales, sums, half_sums) = unsafe {
                (
                    values.slice(at * BLOCK, count * BLOCK),
                    scales.slice(at, count),
                    sums.slice(at, count),
                    half_sums.slice(at * 2, count * 2),
                )
            };
            for row in 0..last - first {
                let (from_block, to_block) = (row * blocks, (row + 1) * blocks);
                ops::quantize(
                    &from[(first + row) * columns..(first + row + 1) * columns],
                    &mut values[from_block * BLOCK..to_block * BLOCK],
                    &mut scales[from_block..to_block],
                    &mut sums[from_block..to_block],
                    &mut half_sums[from_block * 2..to_block * 2],
                );
            }
        });
    }
}
