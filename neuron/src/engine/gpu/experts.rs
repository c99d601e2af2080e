//! A feed-forward that is chosen for each token: a router, and experts of which each token uses a few.

use neuron_cuda::{
    Act, Device, Matrix,
    ops::{self},
};

use super::step::Work;
use crate::engine::ModelError;

pub(super) struct Experts {
    pub(super) router: Matrix,
    /// Of every expert gates, then ups.
    pub(super) gate_up: Matrix,
    pub(super) down: Matrix,
    pub(super) count: usize,
    /// For each token.
    pub(super) used: usize,
    pub(super) normalized: bool,
}

impl Experts {
    pub(super) fn matrices(&self) -> [&Matrix; 3] {
        [&self.router, &self.gate_up, &self.down]
    }

    pub(super) fn matrices_mut(&mut self) -> [&mut Matrix; 3] {
        [&mut self.router, &mut self.gate_up, &mut self.down]
    }

    /// The forms that its input is wanted in.
    pub(super) fn acts(&self, tokens: usize) -> Vec<Act> {
        let mut acts = vec![self.router.format().act(tokens)];
        // A token has a matrix of its own, whatever others have.
        let own = self.gate_up.format().act(1);
        if !acts.contains(&own) {
            acts.push(own);
        }
        acts
    }

    /// What the chosen experts make of each token, to be added: `work.added`.
    pub(super) fn run(
        &self,
        device: &Device,
        work: &Work,
        tokens: usize,
        gelu: bool,
    ) -> Result<(), ModelError> {
        let Self { router, gate_up, down, count, used, normalized } = self;
        let (hidden, width) = (router.columns(), down.columns());
        let x = work.input(router.format().act(tokens), [tokens, hidden]);
        ops::multiply(device, router, &x, &work.scores, [0, *count])?;
        let (chosen, weights) = (&work.chosen, &work.weights);
        ops::route(device, &work.scores, [tokens, *count, *used], *normalized, [chosen, weights])?;
        let x = work.input(gate_up.format().act(1), [tokens, hidden]);
        ops::experts(device, gate_up, &x, chosen, *used, &work.gate_up)?;
        let x = work.input(down.format().act(1), [tokens * used, width]);
        ops::gate_up(device, &work.gate_up, gelu, &x)?;
        ops::experts(device, down, &x, chosen, 1, &work.made)?;
        Ok(ops::combine(device, &work.made, weights, [tokens, *used, hidden], &work.added)?)
    }
}
