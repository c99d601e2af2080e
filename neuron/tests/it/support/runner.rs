//! A model and sequences whose blocks the test hands out itself.

use neuron::engine::{Batch, Model, Part, Rows};

/// Tokens of one sequence in a batch: which sequence, where they begin, what they are.
pub(crate) type Piece<'a> = (usize, usize, &'a [u32]);

pub(crate) struct Runner {
    pub(crate) model: Box<dyn Model>,
    /// Blocks of each sequence.
    blocks: Vec<Vec<u32>>,
}

impl Runner {
    pub(crate) fn new(model: Box<dyn Model>) -> Self {
        Self { model, blocks: Vec::new() }
    }

    /// Runs the pieces in one batch; the logits after each.
    pub(crate) fn run(&mut self, pieces: &[Piece<'_>]) -> Vec<Vec<f32>> {
        let limits = self.model.limits();
        let each = (limits.blocks / 4) as u32;
        while self.blocks.len() < 4 {
            // Of every second first, so that no sequence's blocks lie in order.
            let from = self.blocks.len() as u32 * each;
            let order = (from..from + each).step_by(2).chain((from + 1..from + each).step_by(2));
            self.blocks.push(order.collect());
        }
        let tokens: Vec<u32> = pieces.iter().flat_map(|(_, _, tokens)| tokens.iter().copied()).collect();
        let parts: Vec<Part<'_>> = pieces
            .iter()
            .map(|(sequence, position, tokens)| {
                let needed = (position + tokens.len()).div_ceil(limits.block);
                let blocks = &self.blocks[*sequence][..needed];
                Part { len: tokens.len(), position: *position, blocks, rows: Rows::Last }
            })
            .collect();
        let logits = self.model.forward(&Batch { tokens: &tokens, parts: &parts }).unwrap();
        logits.data.chunks_exact(logits.vocab).map(<[f32]>::to_vec).collect()
    }

    /// One sequence alone, cut into pieces of `most` tokens at most; the logits after the last.
    pub(crate) fn alone(&mut self, tokens: &[u32], position: usize, most: usize) -> Vec<f32> {
        let mut logits = Vec::new();
        for (n, piece) in tokens.chunks(most).enumerate() {
            logits = self.run(&[(0, position + n * most, piece)]).remove(0);
        }
        logits
    }
}
