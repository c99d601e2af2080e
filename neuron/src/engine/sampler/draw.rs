//! Selecting what may be drawn, and drawing.

use neuron_kernels::logits as kernels;

use super::Sampling;

/// Memory of one draw, used again by the next.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Tokens that may be drawn, with their logits or weights.
    candidates: Vec<(u32, f32)>,
    sums: Vec<f32>,
    weights: Vec<f32>,
}

/// How far below the largest logit, in units of the temperature, top_p looks at first, and half as much further each time.
const REACH: f32 = 4.0;
/// Candidates that are sorted at first for top_p; four times as many at each further try.
const TOP_P_START: usize = 256;
/// Candidates that wait for the next selection of top_k, at least.
const TOP_K_ROOM: usize = 512;

/// `best`: the first of the largest logits.
pub(super) fn draw(
    sampling: &Sampling,
    logits: &[f32],
    best: (u32, f32),
    random: &mut Random,
    scratch: &mut Scratch,
) -> u32 {
    let Sampling { temperature, top_p, top_k, min_p, .. } = *sampling;
    let (by, max) = (temperature.recip(), best.1);
    if !max.is_finite() || !by.is_finite() {
        return best.0;
    }
    let Scratch { candidates, sums, weights } = scratch;
    candidates.clear();
    // The largest is always kept, whatever rounding says.
    let floor = if min_p > 0.0 { (max + temperature * min_p.ln()).min(max) } else { f32::MIN };
    let selects = top_k > 0 && top_k < logits.len();
    if selects {
        largest(logits, top_k, floor, candidates);
    } else if min_p > 0.0 {
        kernels::collect_from(logits, 0, floor, usize::MAX, candidates);
    } else if top_p < 1.0 {
        let wanted = kernels::weight_sums(logits, max, by, sums) * f64::from(top_p);
        reach_share(logits, max, temperature, wanted, candidates, weights);
        keep_share(candidates, wanted);
        return pick(candidates, random).unwrap_or(best.0);
    } else {
        return draw_any(logits, max, by, random, sums, weights).unwrap_or(best.0);
    }
    weigh(candidates, max, by, weights);
    if top_p < 1.0 {
        let wanted = total(candidates) * f64::from(top_p);
        keep_share(candidates, wanted);
    } else if selects {
        candidates.sort_unstable_by(heavier_first);
    }
    pick(candidates, random).unwrap_or(best.0)
}

/// The `count` largest logits of at least `floor`, the first ones of those that are equal.
pub(super) fn largest(logits: &[f32], count: usize, floor: f32, out: &mut Vec<(u32, f32)>) {
    let room = count.saturating_mul(4).max(TOP_K_ROOM);
    let (mut at, mut floor) = (0, floor);
    loop {
        at = kernels::collect_from(logits, at, floor, room, out);
        if out.len() > count {
            out.select_nth_unstable_by(count - 1, heavier_first);
            out.truncate(count);
            // What comes later has to be larger than the smallest of these.
            floor = out[count - 1].1.next_up();
        }
        if at >= logits.len() {
            return;
        }
    }
}

/// All tokens down to some logit that together weigh at least `wanted`, with their weights.
fn reach_share(
    logits: &[f32],
    max: f32,
    temperature: f32,
    wanted: f64,
    out: &mut Vec<(u32, f32)>,
    weights: &mut Vec<f32>,
) {
    let mut reach = REACH;
    loop {
        let floor = (max - reach * temperature).max(f32::MIN);
        out.clear();
        kernels::collect_from(logits, 0, floor, usize::MAX, out);
        weigh(out, max, temperature.recip(), weights);
        // Beyond, weights are 0 in f32.
        if total(out) >= wanted || reach > 88.0 {
            return;
        }
        reach += REACH / 2.0;
    }
}

/// Logits become weights relative to the likeliest token's, which is 1.
fn weigh(candidates: &mut [(u32, f32)], max: f32, by: f32, weights: &mut Vec<f32>) {
    let logits: Vec<f32> = candidates.iter().map(|(_, logit)| *logit).collect();
    weights.resize(logits.len(), 0.0);
    kernels::weights(&logits, max, by, weights);
    for ((_, logit), weight) in candidates.iter_mut().zip(weights) {
        *logit = *weight;
    }
}

fn total(candidates: &[(u32, f32)]) -> f64 {
    candidates.iter().map(|(_, weight)| f64::from(*weight)).sum()
}

/// Keeps the fewest heaviest candidates that together weigh `wanted`, sorted; at least one.
fn keep_share(candidates: &mut Vec<(u32, f32)>, wanted: f64) {
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

/// The heavier first; of equal ones the first of the vocabulary.
pub(super) fn heavier_first(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// One of them by its weight.
fn pick(candidates: &[(u32, f32)], random: &mut Random) -> Option<u32> {
    let mut left = random.next_unit() * total(candidates);
    for (token, weight) in candidates {
        left -= f64::from(*weight);
        if left < 0.0 {
            return Some(*token);
        }
    }
    // Rounding may leave a sliver at the end.
    candidates.last().map(|(token, _)| *token)
}

/// One of the whole vocabulary by its weight: first a block of it, then a token in that.
fn draw_any(
    logits: &[f32],
    max: f32,
    by: f32,
    random: &mut Random,
    sums: &mut Vec<f32>,
    weights: &mut Vec<f32>,
) -> Option<u32> {
    let total = kernels::weight_sums(logits, max, by, sums);
    let mut left = random.next_unit() * total;
    let mut last = None;
    for (block, sum) in sums.iter().enumerate() {
        if left >= f64::from(*sum) {
            left -= f64::from(*sum);
            continue;
        }
        let start = block * kernels::BLOCK;
        let logits = &logits[start..logits.len().min(start + kernels::BLOCK)];
        weights.resize(logits.len(), 0.0);
        kernels::weights(logits, max, by, weights);
        for (token, weight) in (start..).zip(&*weights).filter(|(_, weight)| **weight > 0.0) {
            left -= f64::from(*weight);
            last = Some(token);
            if left < 0.0 {
                break;
            }
        }
        // Sums are added up in another order than weights: a sliver may be left of either.
        if left < 0.0 {
            break;
        }
        left = 0.0;
    }
    last.and_then(|token| u32::try_from(token).ok())
}

/// Sebastiano Vigna's SplitMix64: one draw a token asks for no more than an even spread, and the same
/// draws on every machine.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    /// In [0, 1), 53 bits.
    pub(super) fn next_unit(&mut self) -> f64 {
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
