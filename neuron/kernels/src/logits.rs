//! What sampling asks of a whole vocabulary of logits: passes over 150,000 numbers, several for each token.

use crate::{
    cpu::Level,
    ops::{self, exp, sum, versions},
};

const LANES: usize = 16;
/// Logits of which [`weight_sums`] says one sum.
pub const BLOCK: usize = 512;

/// The first of the largest; what is no number does not count.
pub fn first_largest(logits: &[f32]) -> Option<(u32, f32)> {
    let max = ops::largest(logits);
    let at = logits.iter().position(|logit| *logit == max).filter(|_| max > f32::NEG_INFINITY)?;
    Some((u32::try_from(at).ok()?, max))
}

/// e^((logit - max) * by); what is no number weighs nothing.
#[inline(always)]
fn weigh<const FMA: bool>(logit: f32, max: f32, by: f32) -> f32 {
    let weight = exp::<FMA>((logit - max) * by);
    if logit.is_nan() { 0.0 } else { weight }
}

#[inline(always)]
fn weight_sums_body<const FMA: bool>(logits: &[f32], max: f32, by: f32, sums: &mut [f32]) {
    for (block, out) in logits.chunks(BLOCK).zip(sums) {
        let mut lanes = [0.0; LANES];
        let chunks = block.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, logit) in lanes.iter_mut().zip(chunk) {
                *lane += weigh::<FMA>(*logit, max, by);
            }
        }
        for (lane, logit) in lanes.iter_mut().zip(rest) {
            *lane += weigh::<FMA>(*logit, max, by);
        }
        *out = sum(lanes);
    }
}
versions! {
    fn weight_sums_into(logits: &[f32], max: f32, by: f32, sums: &mut [f32]) = weight_sums_body
}

/// Sums of e^((logit - max) * by), one for each [`BLOCK`] of logits; returns the sum of all.
pub fn weight_sums(logits: &[f32], max: f32, by: f32, sums: &mut Vec<f32>) -> f64 {
    sums.clear();
    sums.resize(logits.len().div_ceil(BLOCK), 0.0);
    weight_sums_into(logits, max, by, sums);
    sums.iter().map(|sum| f64::from(*sum)).sum()
}

#[inline(always)]
fn weights_body<const FMA: bool>(logits: &[f32], max: f32, by: f32, out: &mut [f32]) {
    for (logit, out) in logits.iter().zip(out) {
        *out = weigh::<FMA>(*logit, max, by);
    }
}
versions! {
    /// out = e^((logit - max) * by), as [`weight_sums`] adds it up.
    pub fn weights(logits: &[f32], max: f32, by: f32, out: &mut [f32]) = weights_body
}

#[inline(always)]
fn reach_body<const FMA: bool>(logits: &[f32], floor: f32, from: usize) -> usize {
    const WIDE: usize = 4 * LANES;
    let mut at = from;
    for chunk in logits[from..].chunks_exact(WIDE) {
        let mut any = [false; WIDE];
        for (any, logit) in any.iter_mut().zip(chunk) {
            *any = *logit >= floor;
        }
        if any.iter().fold(false, |a, b| a | b) {
            break;
        }
        at += WIDE;
    }
    at
}
versions! {
    /// From where on a logit of at least `floor` may be; before it there is none from `from` on.
    fn reach(logits: &[f32], floor: f32, from: usize) -> usize = reach_body
}

/// Adds the logits from `from` on that are at least `floor`, with their ids, until there are more than `most`;
/// returns where it stopped.
pub fn collect_from(
    logits: &[f32],
    from: usize,
    floor: f32,
    most: usize,
    out: &mut Vec<(u32, f32)>,
) -> usize {
    let mut at = from;
    while at < logits.len() && out.len() <= most {
        at = reach(logits, floor, at);
        let end = (at + 4 * LANES).min(logits.len());
        let ids = u32::try_from(at).unwrap_or(u32::MAX)..;
        let found = ids.zip(&logits[at..end]).filter(|(_, logit)| **logit >= floor);
        out.extend(found.map(|(id, logit)| (id, *logit)));
        at = end;
    }
    at
}

#[inline(always)]
fn mask_body<const FMA: bool>(logits: &mut [f32], bits: &[u32]) {
    for (word, logits) in bits.iter().zip(logits.chunks_mut(32)) {
        if *word == 0 {
            logits.fill(f32::NEG_INFINITY);
        } else if *word != u32::MAX {
            for (bit, logit) in (0u32..).zip(logits) {
                *logit = if (*word >> bit) & 1 == 0 { f32::NEG_INFINITY } else { *logit };
            }
        }
    }
}
versions! {
    fn mask_words(logits: &mut [f32], bits: &[u32]) = mask_body
}

/// Leaves the logits whose bits are set, the lowest bit of each word first; there is none beyond the last word.
pub fn mask(logits: &mut [f32], bits: &[u32]) {
    mask_words(logits, bits);
    if let Some(beyond) = logits.get_mut(bits.len() * 32..) {
        beyond.fill(f32::NEG_INFINITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize) -> Vec<f32> {
        let mut random = 9u32;
        let next = |_| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((random >> 8) as f32 / (1 << 24) as f32 - 0.5) * 30.0
        };
        (0..n).map(next).collect()
    }

    #[test]
    fn sums_are_those_of_the_weights() {
        for n in [1, 15, 16, 511, 512, 513, 5000] {
            let mut logits = noise(n);
            logits[n / 2] = f32::NAN;
            logits[n / 3] = f32::NEG_INFINITY;
            let max = first_largest(&logits).map_or(0.0, |(_, max)| max);
            let exact = |logit: &f32| {
                if logit.is_nan() { 0.0 } else { ((f64::from(*logit) - f64::from(max)) * 0.7).exp() }
            };
            let (mut sums, mut out) = (Vec::new(), vec![0.0; n]);
            let total = weight_sums(&logits, max, 0.7, &mut sums);
            let expected: f64 = logits.iter().map(exact).sum();
            assert!((total - expected).abs() <= expected * 1e-5, "{n}: {total} {expected}");
            weights(&logits, max, 0.7, &mut out);
            for (got, logit) in out.iter().zip(&logits) {
                assert!((f64::from(*got) - exact(logit)).abs() < 1e-6);
            }
            for (block, sum) in out.chunks(BLOCK).zip(&sums) {
                assert!((block.iter().sum::<f32>() - sum).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn all_that_reach_the_floor_are_found_wherever_it_stops() {
        let mut logits = noise(3001);
        logits[7] = f32::NAN;
        for (floor, most) in [(-20.0, usize::MAX), (0.0, 10), (14.0, 3), (99.0, 0)] {
            let (mut got, mut at) = (Vec::new(), 0);
            while at < logits.len() {
                let mut some = Vec::new();
                at = collect_from(&logits, at, floor, most, &mut some);
                got.extend(some);
            }
            let expected: Vec<_> =
                (0u32..).zip(logits.iter().copied()).filter(|(_, logit)| *logit >= floor).collect();
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn the_first_of_the_largest() {
        assert_eq!(first_largest(&[f32::NAN, 1.0, 3.0, 3.0]), Some((2, 3.0)));
        assert_eq!(first_largest(&[f32::NAN, f32::NEG_INFINITY]), None);
        assert_eq!(first_largest(&[]), None);
    }

    #[test]
    fn what_the_mask_lacks_is_gone() {
        let (mut logits, bits) = (vec![1.0; 100], [0u32, u32::MAX, 0b101]);
        mask(&mut logits, &bits);
        for (at, logit) in logits.iter().enumerate() {
            let stays = (32..64).contains(&at) || at == 64 || at == 66;
            assert_eq!(*logit > 0.0, stays, "{at}");
        }
    }
}
