//! Attention of many sequences over their blocks, without a matrix of scores.
//!
//! A task has the rows of one key head for a few tokens of one sequence and goes over the positions 64 at a
//! time, with a running maximum and sum. A row's result is the same however many rows a task has: the spans
//! lie at fixed positions, and what a row may not see adds exactly nothing.

use std::cell::RefCell;

use half::bf16;

use crate::{
    Pool,
    cpu::Level,
    dense::{self, LANES, View, kernel},
    kv::{KV_BLOCK, KvCache},
    ops,
    shared::Shared,
};

/// Positions that are gone over at a time.
const SPAN: usize = 4 * KV_BLOCK;
/// Rows of a task, about; a multiple of what the kernel takes at a time.
const ROWS: usize = 48;
/// From so many rows on, keys and values are widened once for all of them.
const WIDEN: usize = 8;

/// How a layer attends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Applied to queries.
    pub scale: f32,
    /// A token sees so many positions, its own included; `None`: all.
    pub window: Option<usize>,
    /// Scores are capped by tanh.
    pub softcap: Option<f32>,
}

/// Consecutive tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// The first token's row among the queries.
    pub first: usize,
    /// Tokens.
    pub len: usize,
    /// The first token's position; what comes before it and they themselves are in the blocks.
    pub position: usize,
    pub blocks: &'a [u32],
}

struct Job<'a> {
    span: Span<'a>,
    head: usize,
    from: usize,
    to: usize,
}

/// A task's memory, kept by its thread.
#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Maximum and sum of each row.
    running: Vec<(f32, f32)>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `queries`: `[tokens, stride]`, of which a row's first `heads * head_dim` count; `out`: `[tokens, heads * head_dim]`.
///
/// Panics where a sequence has fewer blocks than positions.
#[expect(clippy::too_many_arguments, reason = "two tensors and all that says what they are")]
pub fn attend(
    pool: &mut Pool,
    cache: &KvCache,
    layer: usize,
    heads: &Heads,
    spans: &[Span<'_>],
    queries: &[f32],
    stride: usize,
    out: &mut [f32],
) {
    let group = heads.heads / heads.kv_heads;
    let tokens = (ROWS / group).max(1);
    let jobs: Vec<Job<'_>> = spans
        .iter()
        .flat_map(|span| {
            assert!(
                span.blocks.len() * KV_BLOCK >= span.position + span.len,
                "a sequence without its blocks"
            );
            let tiles = (0..span.len).step_by(tokens);
            tiles.flat_map(move |from| {
                let to = (from + tokens).min(span.len);
                (0..heads.kv_heads).map(move |head| Job { span: *span, head, from, to })
            })
        })
        .collect();
    let out = Shared::new(out);
    let run = |job: &Job<'_>| {
        SCRATCH.with_borrow_mut(|scratch| job.run(cache, layer, heads, queries, stride, &out, scratch));
    };
    // A few short sequences are done sooner than shared out.
    let work: usize = spans.iter().map(|s| s.len * (s.position + s.len)).sum::<usize>() * heads.heads;
    if work < 512 {
        jobs.iter().for_each(run);
    } else {
        // The longest come last in a sequence: they go first, so that none is left over at the end.
        pool.run(jobs.len(), |i| run(&jobs[jobs.len() - 1 - i]));
    }
}

impl Job<'_> {
    #[expect(clippy::too_many_arguments, reason = "what `attend` was given")]
    fn run(
        &self,
        cache: &KvCache,
        layer: usize,
        heads: &Heads,
        queries: &[f32],
        stride: usize,
        out: &Shared<'_, f32>,
        scratch: &mut Scratch,
    ) {
        let level = Level::best();
        let (dim, padded) = (heads.head_dim, cache.shape.padded_dim());
        let group = heads.heads / heads.kv_heads;
        let rows = (self.to - self.from) * group;
        let row_of = |row: usize| (self.from + row / group, self.head * group + row % group);
        scratch.start(rows, dim, padded);
        for row in 0..rows {
            let (token, head) = row_of(row);
            let from = (self.span.first + token) * stride + head * dim;
            let query = &mut scratch.queries[row * dim..(row + 1) * dim];
            query.copy_from_slice(&queries[from..from + dim]);
            ops::scale(query, heads.scale);
        }
        let last = self.span.position + self.to - 1;
        let seen_from =
            |position: usize| heads.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let first = seen_from(self.span.position + self.from) / SPAN * SPAN;
        for start in (first..=last).step_by(SPAN) {
            let len = SPAN.min(last + 1 - start);
            let blocks = &self.span.blocks[start / KV_BLOCK..(start + len).div_ceil(KV_BLOCK)];
            let wide = rows >= WIDEN;
            if wide {
                scratch.widen(cache, layer, self.head, blocks, len);
            }
            scratch.scores[..rows * SPAN].fill(0.0);
            for (n, block) in blocks.iter().enumerate() {
                let keys = match wide {
                    true => View::F32(&scratch.keys[n * dim * KV_BLOCK..(n + 1) * dim * KV_BLOCK]),
                    false => cache.keys(layer, *block as usize, self.head),
                };
                let scores = &mut scratch.scores[n * KV_BLOCK..];
                times(level, keys, KV_BLOCK, &scratch.queries, dim, dim, rows, scores, SPAN);
            }
            for row in 0..rows {
                let position = self.span.position + row_of(row).0;
                let end = (position + 1).clamp(start, start + len);
                let begin = seen_from(position).clamp(start, end);
                scratch.soften(row, len, begin - start..end - start, heads.softcap, padded);
            }
            if wide {
                for panel in (0..padded).step_by(LANES) {
                    let values = View::F32(&scratch.values[panel..(len - 1) * padded + panel + LANES]);
                    let sums = &mut scratch.sums[panel..];
                    times(level, values, padded, &scratch.scores, SPAN, len, rows, sums, padded);
                }
                continue;
            }
            for (n, block) in blocks.iter().enumerate() {
                let values = cache.values(layer, *block as usize, self.head);
                let len = KV_BLOCK.min(len - n * KV_BLOCK);
                for panel in (0..padded).step_by(LANES) {
                    let sums = &mut scratch.sums[panel..];
                    let scores = &scratch.scores[n * KV_BLOCK..];
                    times(level, part(values, panel), padded, scores, SPAN, len, rows, sums, padded);
                }
            }
        }
        for row in 0..rows {
            let (token, head) = row_of(row);
            let at = (self.span.first + token) * heads.heads * dim + head * dim;
            // SAFETY: a token's head is written by one task alone.
            let out = unsafe { out.slice(at, dim) };
            out.copy_from_slice(&scratch.sums[row * padded..row * padded + dim]);
            ops::scale(out, 1.0 / scratch.running[row].1);
        }
    }
}

/// The kernel over any number of rows; row r of `x` is `x[r * x_stride..][..columns]`.
#[expect(clippy::too_many_arguments, reason = "two matrices and their strides")]
pub(crate) fn times(
    level: Level,
    w: View<'_>,
    stride: usize,
    x: &[f32],
    x_stride: usize,
    columns: usize,
    rows: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    let most = dense::rows_a_pass(level);
    for first in (0..rows).step_by(most) {
        let count = most.min(rows - first);
        let x: [&[f32]; dense::MOST] = std::array::from_fn(|n| {
            let row = first + n.min(count - 1);
            &x[row * x_stride..row * x_stride + columns]
        });
        kernel::panel_times(level, w, stride, &x[..count], &mut out[first * out_stride..], out_stride);
    }
}

fn part(view: View<'_>, from: usize) -> View<'_> {
    match view {
        View::F32(all) => View::F32(&all[from..]),
        View::F16(all) => View::F16(&all[from..]),
        View::BF16(all) => View::BF16(&all[from..]),
    }
}

impl Scratch {
    fn start(&mut self, rows: usize, dim: usize, padded: usize) {
        self.queries.resize(rows * dim, 0.0);
        self.scores.resize(rows * SPAN, 0.0);
        self.sums.clear();
        self.sums.resize(rows * padded, 0.0);
        self.running.clear();
        self.running.resize(rows, (f32::NEG_INFINITY, 0.0));
    }

    /// Keys and values of a span as 32-bit floats.
    fn widen(&mut self, cache: &KvCache, layer: usize, head: usize, blocks: &[u32], len: usize) {
        let (dim, padded) = (cache.shape.head_dim, cache.shape.padded_dim());
        self.keys.resize(SPAN * dim, 0.0);
        self.values.resize(SPAN * padded, 0.0);
        for (n, block) in blocks.iter().enumerate() {
            let keys = cache.keys(layer, *block as usize, head);
            widen(keys, &mut self.keys[n * dim * KV_BLOCK..(n + 1) * dim * KV_BLOCK]);
            let count = KV_BLOCK.min(len - n * KV_BLOCK) * padded;
            let values = cache.values(layer, *block as usize, head);
            widen(values, &mut self.values[n * padded * KV_BLOCK..][..count]);
        }
    }

    /// Scores of a row to weights, by the running maximum; what was summed before is brought to the new one.
    fn soften(
        &mut self,
        row: usize,
        len: usize,
        seen: std::ops::Range<usize>,
        cap: Option<f32>,
        padded: usize,
    ) {
        let scores = &mut self.scores[row * SPAN..row * SPAN + len];
        if let Some(cap) = cap {
            ops::softcap(scores, cap);
        }
        scores[..seen.start].fill(f32::NEG_INFINITY);
        scores[seen.end..].fill(f32::NEG_INFINITY);
        let (max, sum) = &mut self.running[row];
        let new_max = ops::largest(scores).max(*max);
        if new_max == f32::NEG_INFINITY {
            // Nothing to see here yet.
            scores.fill(0.0);
            return;
        }
        let by = ops::exp_of(*max - new_max);
        *sum = *sum * by + ops::exp_minus(scores, new_max);
        *max = new_max;
        if by != 1.0 {
            ops::scale(&mut self.sums[row * padded..(row + 1) * padded], by);
        }
    }
}

fn widen(from: View<'_>, to: &mut [f32]) {
    match from {
        View::F32(from) => to.copy_from_slice(&from[..to.len()]),
        View::F16(from) => ops::widen_f16(&from[..to.len()], to),
        View::BF16(from) => {
            for (to, from) in to.iter_mut().zip(from) {
                *to = bf16::from_bits(*from).to_f32();
            }
        }
    }
}

#[cfg(test)]
mod tests;
