//! How likely the model found a token and its rivals.

use neuron_kernels::logits as kernels;

use super::draw::{heavier_first, largest};

/// Logarithms of probabilities by the model's own distribution: before bias, penalties, temperature and whatever
/// else changes what is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Of the token itself.
    pub chosen: f32,
    /// The likeliest tokens, the likeliest first.
    pub top: Vec<(u32, f32)>,
}

impl Logprobs {
    /// Of `token` and the `count` likeliest, from logits as the model gave them.
    pub fn of(logits: &[f32], token: u32, count: usize) -> Self {
        let max = kernels::first_largest(logits).map_or(0.0, |(_, max)| max);
        #[expect(clippy::cast_possible_truncation, reason = "logits are no wider")]
        let whole = max + kernels::weight_sums(logits, max, 1.0, &mut Vec::new()).ln() as f32;
        let mut top = Vec::new();
        if count > 0 {
            largest(logits, count, f32::MIN, &mut top);
            top.sort_unstable_by(heavier_first);
            top.iter_mut().for_each(|(_, logit)| *logit -= whole);
        }
        let chosen = logits.get(token as usize).map_or(f32::NEG_INFINITY, |logit| logit - whole);
        Self { chosen, top }
    }
}
