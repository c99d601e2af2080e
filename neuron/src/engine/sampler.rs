//! From logits to a token.
//!
//! In this order: bias, penalties, temperature, min_p, top_k, top_p, draw. Temperature 0 takes the largest
//! logit after the penalties. No step sorts the vocabulary: what survives is selected, and only as
//! much of it sorted as top_p needs.

mod draw;
mod logprobs;

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
};

use neuron_kernels::logits as kernels;

use super::Draw;

pub use draw::Scratch;
use draw::{Random, draw};
pub use logprobs::Logprobs;

/// How tokens are drawn. The defaults leave the model's distribution as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0: always the likeliest.
    pub temperature: f32,
    /// Keeps the likeliest tokens that make up this share; 1: all.
    pub top_p: f32,
    /// Keeps this many; 0: all.
    pub top_k: usize,
    /// Drops tokens less likely than this share of the likeliest; 0: none.
    pub min_p: f32,
    /// Divides positive logits, multiplies negative ones, of all tokens so far, prompt included; 1: off.
    pub repetition_penalty: f32,
    /// Taken off the logit of each token of the answer so far.
    pub presence_penalty: f32,
    /// Taken off for each time that the token stands in the answer so far.
    pub frequency_penalty: f32,
    /// Added to logits, by token.
    pub logit_bias: Arc<[(u32, f32)]>,
    /// The same seed gives the same draws; `None`: drawn anew.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Arc::default(),
            seed: None,
        }
    }
}

/// The sampling state of one sequence.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: Random,
    /// How often each token stands in the answer; prompt tokens are there with 0.
    counts: HashMap<u32, u32>,
}

impl Sampler {
    /// `prompt` counts for the repetition penalty only.
    pub fn new(sampling: Sampling, prompt: &[u32]) -> Self {
        let seed = sampling.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        let counts = if sampling.repetition_penalty == 1.0 {
            HashMap::new()
        } else {
            prompt.iter().map(|token| (*token, 0)).collect()
        };
        Self { sampling, random: Random(seed), counts }
    }

    /// Draws the next token and remembers it. `None` where no logit is a number.
    pub fn sample(&mut self, logits: &mut [f32], scratch: &mut Scratch) -> Option<u32> {
        self.adjust(logits);
        let best = kernels::first_largest(logits)?;
        let token = match self.sampling.temperature {
            cold if cold <= 0.0 => best.0,
            _ => draw(&self.sampling, logits, best, &mut self.random, scratch),
        };
        self.record(token);
        Some(token)
    }

    /// How the next token is drawn, where nothing changes the logits first.
    pub(crate) fn plain_draw(&mut self) -> Option<Draw> {
        let Sampling {
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias,
            seed: _,
        } = &self.sampling;
        let penalised = *repetition_penalty != 1.0 || *presence_penalty != 0.0 || *frequency_penalty != 0.0;
        if penalised || !logit_bias.is_empty() {
            return None;
        }
        // As in a draw here, what is certain takes no number.
        let unit = if *temperature > 0.0 { self.random.next_unit() as f32 } else { 0.0 };
        // Rounded to 32 bits it may be 1.
        let unit = unit.min(1.0f32.next_down());
        Some(Draw { temperature: *temperature, top_p: *top_p, top_k: *top_k, min_p: *min_p, unit })
    }

    /// Remembers a token that was not drawn but given.
    pub fn record(&mut self, token: u32) {
        *self.counts.entry(token).or_insert(0) += 1;
    }

    fn adjust(&self, logits: &mut [f32]) {
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.sampling;
        for (token, bias) in self.sampling.logit_bias.iter() {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        if repetition_penalty == 1.0 && presence_penalty == 0.0 && frequency_penalty == 0.0 {
            return;
        }
        for (token, count) in &self.counts {
            let Some(logit) = logits.get_mut(*token as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / repetition_penalty } else { *logit * repetition_penalty };
            if *count > 0 {
                #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^24")]
                let count = *count as f32;
                *logit -= presence_penalty + frequency_penalty * count;
            }
        }
    }
}

#[cfg(test)]
mod tests;
