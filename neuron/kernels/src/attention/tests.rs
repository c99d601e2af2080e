use super::*;
use crate::{
    dense::Float,
    kv::{KvShape, Slot},
};

fn noise(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i + seed) * 7919 + 13) % 1009) as f32 / 504.5 - 1.0).collect()
}

/// Softmax attention of one token's head over a whole sequence, in f64.
fn reference(
    heads: &Heads,
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    position: usize,
    head: usize,
) -> Vec<f64> {
    let (dim, row) = (heads.head_dim, heads.kv_heads * heads.head_dim);
    let at = head / (heads.heads / heads.kv_heads) * dim;
    let first = heads.window.map_or(0, |w| (position + 1).saturating_sub(w));
    let scores: Vec<f64> = (first..=position)
        .map(|p| {
            let dot: f64 = (0..dim).map(|d| f64::from(q[d]) * f64::from(keys[p * row + at + d])).sum();
            let score = dot * f64::from(heads.scale);
            heads.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        })
        .collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    (0..dim)
        .map(|d| {
            let of = |(n, w): (usize, &f64)| w * f64::from(values[(first + n) * row + at + d]);
            weights.iter().enumerate().map(of).sum::<f64>() / sum
        })
        .collect()
}

/// Blocks in an order of their own, and one of another sequence between them.
fn block_of(position: usize) -> u32 {
    (position / KV_BLOCK * 2 + 1) as u32
}

struct Case {
    heads: Heads,
    float: Float,
    tolerance: f64,
}

fn cases() -> Vec<Case> {
    let plain = |heads, kv_heads, head_dim| Heads {
        heads,
        kv_heads,
        head_dim,
        scale: 0.3,
        window: None,
        softcap: None,
    };
    vec![
        Case { heads: plain(9, 3, 64), float: Float::F32, tolerance: 1e-5 },
        Case { heads: plain(9, 3, 64), float: Float::F16, tolerance: 1e-3 },
        Case { heads: plain(2, 2, 24), float: Float::F32, tolerance: 1e-5 },
        Case { heads: plain(4, 1, 80), float: Float::BF16, tolerance: 1e-2 },
        Case { heads: Heads { window: Some(37), ..plain(4, 2, 32) }, float: Float::F32, tolerance: 1e-5 },
        Case { heads: Heads { window: Some(1), ..plain(2, 1, 16) }, float: Float::F32, tolerance: 1e-5 },
        Case { heads: Heads { softcap: Some(2.0), ..plain(4, 2, 32) }, float: Float::F32, tolerance: 1e-5 },
    ]
}

#[test]
fn it_is_softmax_attention_however_the_tokens_come() {
    let total = 200;
    for Case { heads, float, tolerance } in cases() {
        let (dim, kv_row, q_row) =
            (heads.head_dim, heads.kv_heads * heads.head_dim, heads.heads * heads.head_dim);
        let (q, keys, values) = (noise(total * q_row, 1), noise(total * kv_row, 5), noise(total * kv_row, 9));
        let shape = KvShape { layers: 2, kv_heads: heads.kv_heads, head_dim: dim, float };
        let mut pool = Pool::new("test", 2).unwrap();
        let mut cache = KvCache::new(shape, 32);
        let slot = |p: usize| Slot { block: block_of(p), offset: (p % KV_BLOCK) as u32 };
        let slots: Vec<Slot> = (0..total).map(slot).collect();
        cache.store(&mut pool, 1, &slots, &keys, &values, kv_row);
        let blocks: Vec<u32> = (0..total.div_ceil(KV_BLOCK)).map(|b| block_of(b * KV_BLOCK)).collect();

        let mut whole = vec![0.0; total * q_row];
        let span = Span { first: 0, len: total, position: 0, blocks: &blocks };
        attend(&mut pool, &cache, 1, &heads, &[span], &q, q_row, &mut whole);
        for token in (0..total).step_by(7).chain([15, 16, 63, 64, 65, total - 1]) {
            for head in 0..heads.heads {
                let at = token * q_row + head * dim;
                let expected = reference(&heads, &q[at..at + dim], &keys, &values, token, head);
                for (ours, expected) in whole[at..at + dim].iter().zip(&expected) {
                    assert!((f64::from(*ours) - expected).abs() < tolerance, "{heads:?} {token} {head}");
                }
            }
        }
        // In pieces, and one by one: to the last bit the same.
        let mut pieces = vec![0.0; total * q_row];
        let cuts = [0, 1, 2, 3, 20, 90, 91, 160, total];
        let spans: Vec<Span<'_>> = cuts
            .windows(2)
            .map(|cut| Span { first: cut[0], len: cut[1] - cut[0], position: cut[0], blocks: &blocks })
            .collect();
        attend(&mut pool, &cache, 1, &heads, &spans, &q, q_row, &mut pieces);
        assert_eq!(whole, pieces, "{heads:?}");
    }
}

#[test]
fn one_sequences_nonsense_is_its_own() {
    let heads = Heads { heads: 2, kv_heads: 1, head_dim: 16, scale: 1.0, window: None, softcap: None };
    let mut pool = Pool::new("test", 1).unwrap();
    let mut cache = KvCache::new(KvShape { layers: 1, kv_heads: 1, head_dim: 16, float: Float::F16 }, 2);
    let slots = |block| (0..3).map(|offset| Slot { block, offset }).collect::<Vec<_>>();
    cache.store(&mut pool, 0, &slots(0), &noise(48, 1), &noise(48, 2), 16);
    cache.store(&mut pool, 0, &slots(1), &noise(48, 3), &[f32::NAN; 48], 16);
    let q = noise(64, 4);
    let mut out = vec![0.0; 64];
    let span = |first, block| Span { first, len: 1, position: 2, blocks: block };
    attend(&mut pool, &cache, 0, &heads, &[span(0, &[0]), span(1, &[1])], &q, 32, &mut out);
    assert!(out[..32].iter().all(|x| x.is_finite()) && out[32..].iter().all(|x| x.is_nan()), "{out:?}");
}
