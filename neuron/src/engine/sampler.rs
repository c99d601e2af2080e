//! From logits to a token.
//!
//! In this order: penalties, temperature, min_p, top_k, top_p, draw. Temperature 0 takes the largest
//! logit after the penalties. No step sorts the vocabulary: what survives is selected, and only as
//! much of it sorted as top_p needs.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
};

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
            seed: None,
        }
    }
}

/// The sampling state of one sequence.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
    /// How often each token stands in the answer; prompt tokens are there with 0.
    counts: HashMap<u32, u32>,
}

/// How many candidates are sorted at first for top_p; four times as many at each further try.
const TOP_P_START: usize = 256;

impl Sampler {
    /// `prompt` counts for the repetition penalty only.
    pub fn new(sampling: Sampling, prompt: &[u32]) -> Self {
        let seed = sampling.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        let counts = if sampling.repetition_penalty == 1.0 {
            HashMap::new()
        } else {
            prompt.iter().map(|token| (*token, 0)).collect()
        };
        Self { sampling, random: SplitMix64(seed), counts }
    }

    /// Draws the next token and remembers it. `None` where no logit is a number.
    pub fn sample(&mut self, logits: &mut [f32]) -> Option<u32> {
        self.penalize(logits);
        let (best, max) = largest(logits)?;
        let token = if self.sampling.temperature <= 0.0 { best } else { self.draw(logits, best, max) };
        *self.counts.entry(token).or_insert(0) += 1;
        Some(token)
    }

    fn penalize(&self, logits: &mut [f32]) {
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.sampling;
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

    /// Weights are relative to the likeliest token's, which is 1.
    fn draw(&mut self, logits: &[f32], best: u32, max: f32) -> u32 {
        let Sampling { temperature, top_p, top_k, min_p, .. } = self.sampling;
        let weight = |logit: f32| ((logit - max) / temperature).exp();
        let mut candidates: Vec<(u32, f32)> = (0u32..)
            .zip(logits)
            .map(|(token, logit)| (token, weight(*logit)))
            .filter(|(_, weight)| *weight > 0.0 && *weight >= min_p)
            .collect();
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, heavier_first);
            candidates.truncate(top_k);
        }
        if top_p < 1.0 {
            keep_share(&mut candidates, top_p);
        }
        let total: f64 = candidates.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let mut left = self.random.next_unit() * total;
        for (token, weight) in &candidates {
            left -= f64::from(*weight);
            if left < 0.0 {
                return *token;
            }
        }
        // Rounding may leave a sliver at the end.
        candidates.last().map_or(best, |(token, _)| *token)
    }
}

fn heavier_first(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps the fewest heaviest candidates that together reach `share` of the whole; at least one.
fn keep_share(candidates: &mut Vec<(u32, f32)>, share: f32) {
    let wanted = candidates.iter().map(|(_, weight)| f64::from(*weight)).sum::<f64>() * f64::from(share);
    let mut sorted = TOP_P_START.min(candidates.len());
    loop {
        if sorted < candidates.len() {
            candidates.select_nth_unstable_by(sorted, heavier_first);
        }
        candidates[..sorted].sort_unstable_by(heavier_first);
        let mut sum = 0.0;
        let reached = candidates[..sorted].iter().position(|(_, weight)| {
            sum += f64::from(*weight);
            sum >= wanted
        });
        if let Some(last) = reached {
            candidates.truncate(last + 1);
            return;
        }
        if sorted == candidates.len() {
            return;
        }
        sorted = (sorted * 4).min(candidates.len());
    }
}

/// The first of the largest logits; NaN counts as none.
fn largest(logits: &[f32]) -> Option<(u32, f32)> {
    let mut best: Option<(u32, f32)> = None;
    for (token, logit) in (0u32..).zip(logits) {
        if *logit > best.map_or(f32::NEG_INFINITY, |(_, max)| max) {
            best = Some((token, *logit));
        }
    }
    best
}

/// Sebastiano Vigna's SplitMix64: one draw a token asks for no more than an even spread, and the same
/// draws on every machine.
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    /// In [0, 1), 53 bits.
    fn next_unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        #[expect(clippy::cast_precision_loss, reason = "53 bits are exact in an f64")]
        let bits = (z >> 11) as f64;
        bits / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
