//! A feed-forward that is chosen for each token: a router, and experts of which each token uses a few.

use neuron_kernels::{Input, Matrix, Pool, Product, each_row, multiply, ops};

use super::layer::activate;
use crate::engine::architecture::Activation;

pub(super) struct Experts {
    pub(super) router: Matrix,
    pub(super) each: Vec<Expert>,
    /// For each token.
    pub(super) used: usize,
    pub(super) normalized: bool,
}

pub(super) struct Expert {
    pub(super) gate: Matrix,
    pub(super) up: Matrix,
    pub(super) down: Matrix,
}

/// Memory of a forward, used again by the next.
#[derive(Default)]
pub(super) struct Buffers {
    scores: Vec<f32>,
    calls: Vec<Call>,
}

/// The tokens of one expert.
#[derive(Default)]
struct Call {
    expert: usize,
    /// Token and its weight here.
    tokens: Vec<(usize, f32)>,
    input: Input,
    gate: Vec<f32>,
    up: Vec<f32>,
    out: Vec<f32>,
}

impl Experts {
    /// Adds what the chosen experts make of each token: `out` is `[tokens, hidden]`.
    pub(super) fn run(
        &self,
        pool: &mut Pool,
        input: &mut Input,
        buffers: &mut Buffers,
        activation: Activation,
        out: &mut [f32],
    ) {
        let Buffers { scores, calls } = buffers;
        let (tokens, hidden) = (input.rows(), self.router.columns());
        input.ready(pool, [&self.router]);
        scores.resize(tokens * self.each.len(), 0.0);
        multiply(pool, &mut [Product::new(&self.router, input, scores)]);
        let count = self.share_out(scores, calls);
        let calls = &mut calls[..count];
        for call in calls.iter_mut() {
            let expert = &self.each[call.expert];
            let rows = call.input.start(call.tokens.len(), hidden);
            for (row, (token, _)) in rows.chunks_exact_mut(hidden).zip(&call.tokens) {
                row.copy_from_slice(input.row(*token));
            }
            call.input.ready(pool, [&expert.gate]);
            call.gate.resize(call.tokens.len() * expert.gate.rows(), 0.0);
            call.up.resize(call.tokens.len() * expert.up.rows(), 0.0);
        }
        let mut products = Vec::with_capacity(count * 2);
        for call in calls.iter_mut() {
            let (expert, input) = (&self.each[call.expert], &call.input);
            products.push(Product::new(&expert.gate, input, &mut call.gate));
            products.push(Product::new(&expert.up, input, &mut call.up));
        }
        multiply(pool, &mut products);
        drop(products);
        for call in calls.iter_mut() {
            let expert = &self.each[call.expert];
            let (width, gate, up) = (expert.gate.rows(), &call.gate, &call.up);
            let rows = call.input.start(call.tokens.len(), width);
            each_row(pool, rows, width, |row, out| {
                out.copy_from_slice(&gate[row * width..(row + 1) * width]);
                activate(activation, out, &up[row * width..(row + 1) * width]);
            });
            call.input.ready(pool, [&expert.down]);
            call.out.resize(call.tokens.len() * hidden, 0.0);
        }
        let mut products = Vec::with_capacity(count);
        for call in calls.iter_mut() {
            let matrix = &self.each[call.expert].down;
            products.push(Product::new(matrix, &call.input, &mut call.out));
        }
        multiply(pool, &mut products);
        drop(products);
        // In the experts' order, so that a token's sum does not depend on its neighbours'.
        for call in calls {
            for (row, (token, weight)) in call.out.chunks_exact(hidden).zip(&call.tokens) {
                ops::add_scaled(&mut out[token * hidden..(token + 1) * hidden], row, *weight);
            }
        }
    }

    /// Which tokens each expert gets, from the router's scores; returns how many experts get any.
    fn share_out(&self, scores: &mut [f32], calls: &mut Vec<Call>) -> usize {
        let mut of_expert: Vec<Vec<(usize, f32)>> = vec![Vec::new(); self.each.len()];
        for (token, scores) in scores.chunks_exact_mut(self.each.len()).enumerate() {
            let max = ops::largest(scores);
            let mut total = 0.0;
            for score in scores.iter_mut() {
                *score = (*score - max).exp();
                total += *score;
            }
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
            order.truncate(self.used);
            if self.normalized {
                total = order.iter().map(|expert| scores[*expert]).sum();
            }
            order.iter().for_each(|expert| of_expert[*expert].push((token, scores[*expert] / total)));
        }
        let used = of_expert.into_iter().enumerate().filter(|(_, tokens)| !tokens.is_empty());
        let mut count = 0;
        for (expert, tokens) in used {
            if calls.len() == count {
                calls.push(Call::default());
            }
            (calls[count].expert, calls[count].tokens) = (expert, tokens);
            count += 1;
        }
        count
    }
}
