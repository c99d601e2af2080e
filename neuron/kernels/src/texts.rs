//! Attention of texts that are read whole: each token sees every other of its own text.
//!
//! A task has some rows of one head of one text. Its keys are laid out as panels and its values as rows of
//! whole vectors, so that the same kernel multiplies with both; a row's sums go over its text's positions in
//! their order, whoever else is in the batch.

use std::cell::RefCell;

use crate::{
    Pool,
    aligned::Aligned,
    attention::times,
    cpu::Level,
    dense::{LANES, View},
    ops,
    shared::Shared,
};

/// Rows of a task; a multiple of what the kernel takes at a time.
const ROWS: usize = 96;

/// How a layer attends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextHeads {
    pub heads: usize,
    pub head_dim: usize,
    /// Applied to queries.
    pub scale: f32,
}

/// One text of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    /// Its first token's row.
    pub first: usize,
    /// Tokens; at least 1.
    pub len: usize,
}

struct Job {
    text: Text,
    head: usize,
    from: usize,
    to: usize,
}

/// A task's memory, kept by its thread.
struct Scratch {
    /// [panels, head_dim, 16]
    keys: Aligned<f32>,
    /// [positions, padded head_dim]
    values: Aligned<f32>,
    /// [rows, head_dim]
    queries: Vec<f32>,
    /// [rows, padded positions]
    scores: Vec<f32>,
    /// [rows, padded head_dim]
    sums: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        keys: Aligned::zeros(0),
        values: Aligned::zeros(0),
        queries: Vec::new(),
        scores: Vec::new(),
        sums: Vec::new(),
    });
}

/// Bytes that a thread needs for texts of so many tokens.
pub fn scratch_bytes(heads: &TextHeads, len: usize) -> usize {
    let (padded, dim) = (len.next_multiple_of(LANES), heads.head_dim.next_multiple_of(LANES));
    (2 * padded * dim + ROWS * (padded + 2 * dim)) * size_of::<f32>()
}

/// All four: `[tokens, heads * head_dim]`; `texts` say whose rows are which.
///
/// Panics where a text is not inside them.
pub fn attend_texts(
    pool: &mut Pool,
    heads: &TextHeads,
    texts: &[Text],
    [queries, keys, values]: [&[f32]; 3],
    out: &mut [f32],
) {
    let jobs: Vec<Job> = texts
        .iter()
        .flat_map(|text| {
            (0..text.len).step_by(ROWS).flat_map(move |from| {
                let to = (from + ROWS).min(text.len);
                (0..heads.heads).map(move |head| Job { text: *text, head, from, to })
            })
        })
        .collect();
    let out = Shared::new(out);
    pool.run(jobs.len(), |i| {
        SCRATCH.with_borrow_mut(|scratch| jobs[i].run(heads, queries, keys, values, &out, scratch));
    });
}

impl Job {
    fn run(
        &self,
        heads: &TextHeads,
        queries: &[f32],
        keys: &[f32],
        values: &[f32],
        out: &Shared<'_, f32>,
        scratch: &mut Scratch,
    ) {
        let (level, len, dim) = (Level::best(), self.text.len, heads.head_dim);
        let (padded, rows) = (len.next_multiple_of(LANES), self.to - self.from);
        let padded_dim = dim.next_multiple_of(LANES);
        let at = |token: usize| ((self.text.first + token) * heads.heads + self.head) * dim;
        scratch.start(rows, len, dim);
        for token in 0..len {
            let panel = &mut scratch.keys[token / LANES * dim * LANES..][..dim * LANES];
            for (d, key) in keys[at(token)..at(token) + dim].iter().enumerate() {
                panel[d * LANES + token % LANES] = *key;
            }
            scratch.values[token * padded_dim..][..dim].copy_from_slice(&values[at(token)..at(token) + dim]);
        }
        for row in 0..rows {
            let query = &mut scratch.queries[row * dim..(row + 1) * dim];
            query.copy_from_slice(&queries[at(self.from + row)..at(self.from + row) + dim]);
            ops::scale(query, heads.scale);
        }
        for panel in 0..padded / LANES {
            let keys = View::F32(&scratch.keys[panel * dim * LANES..][..dim * LANES]);
            let scores = &mut scratch.scores[panel * LANES..];
            times(level, keys, LANES, &scratch.queries, dim, dim, rows, scores, padded);
        }
        let (mut by, mut each) = ([0.0; ROWS], scratch.scores.chunks_exact_mut(padded));
        for (by, scores) in by.iter_mut().zip(&mut each) {
            scores[len..].fill(f32::NEG_INFINITY);
            *by = 1.0 / ops::exp_minus(scores, ops::largest(scores));
        }
        for panel in (0..padded_dim).step_by(LANES) {
            let values = View::F32(&scratch.values[panel..(len - 1) * padded_dim + panel + LANES]);
            let sums = &mut scratch.sums[panel..];
            times(level, values, padded_dim, &scratch.scores, padded, len, rows, sums, padded_dim);
        }
        for (row, by) in by[..rows].iter().enumerate() {
            // SAFETY: a token's head is written by one task alone.
            let out = unsafe { out.slice(at(self.from + row), dim) };
            out.copy_from_slice(&scratch.sums[row * padded_dim..][..dim]);
            ops::scale(out, *by);
        }
    }
}

impl Scratch {
    fn start(&mut self, rows: usize, len: usize, dim: usize) {
        let (padded, padded_dim) = (len.next_multiple_of(LANES), dim.next_multiple_of(LANES));
        // What is left in a panel's places past the text's end is never looked at.
        if self.keys.len() < padded * dim {
            self.keys = Aligned::zeros(padded * dim);
        }
        if self.values.len() < padded * padded_dim {
            self.values = Aligned::zeros(padded * padded_dim);
        }
        self.queries.resize(rows * dim, 0.0);
        for zeros in [(&mut self.scores, rows * padded), (&mut self.sums, rows * padded_dim)] {
            zeros.0.clear();
            zeros.0.resize(zeros.1, 0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729 + 13) % 1009) as f32 / 252.0 - 2.0).collect()
    }

    /// Attention of one row, by its definition.
    fn defined(heads: &TextHeads, text: Text, [q, k, v]: [&[f32]; 3], token: usize, head: usize) -> Vec<f64> {
        let dim = heads.head_dim;
        let at = |token: usize| ((text.first + token) * heads.heads + head) * dim;
        let of = |x: &[f32], token: usize, d: usize| f64::from(x[at(token) + d]);
        let score = |other| (0..dim).map(|d| of(q, token, d) * of(k, other, d)).sum::<f64>();
        let weights: Vec<f64> =
            (0..text.len).map(|other| (score(other) * f64::from(heads.scale)).exp()).collect();
        let all: f64 = weights.iter().sum();
        (0..dim)
            .map(|d| (0..text.len).map(|other| weights[other] * of(v, other, d)).sum::<f64>() / all)
            .collect()
    }

    #[test]
    fn every_token_sees_its_own_text_and_no_other() {
        for (heads, head_dim) in [(1, 4), (3, 16), (2, 20)] {
            let heads = TextHeads { heads, head_dim, scale: 0.3 };
            let lens = [1, 16, 5, 230, 17];
            let firsts = lens.iter().scan(0, |first, len| Some(std::mem::replace(first, *first + len)));
            let texts: Vec<Text> = firsts.zip(lens).map(|(first, len)| Text { first, len }).collect();
            let width = heads.heads * head_dim;
            let n = lens.iter().sum::<usize>() * width;
            let (q, k, v) = (noise(n, 1), noise(n, 2), noise(n, 3));
            let mut pool = Pool::new("test", 3).unwrap();
            let mut out = vec![f32::NAN; n];
            attend_texts(&mut pool, &heads, &texts, [&q, &k, &v], &mut out);
            for text in &texts {
                for (token, head) in (0..text.len).flat_map(|t| (0..heads.heads).map(move |h| (t, h))) {
                    let expected = defined(&heads, *text, [&q, &k, &v], token, head);
                    let at = ((text.first + token) * heads.heads + head) * head_dim;
                    for (ours, expected) in out[at..at + head_dim].iter().zip(expected) {
                        assert!((f64::from(*ours) - expected).abs() < 1e-5, "{ours} {expected}");
                    }
                }
                // Alone it comes out the same, to the last bit.
                let rows = text.first * width..(text.first + text.len) * width;
                let mut alone = vec![f32::NAN; rows.len()];
                let parts = [&q[rows.clone()], &k[rows.clone()], &v[rows.clone()]];
                attend_texts(&mut pool, &heads, &[Text { first: 0, len: text.len }], parts, &mut alone);
                assert_eq!(alone, out[rows]);
            }
        }
    }
}
