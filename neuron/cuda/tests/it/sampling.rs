use neuron_cuda::ops::{self, Draw};

use crate::support::{Random, device, read};

const ALL: Draw = Draw { temperature: 1.0, top_p: 1.0, min_p: 0.0, unit: 0.0, top_k: 0 };

/// What may be drawn, in the vocabulary's order, and with what probability.
fn distribution(logits: &[f32], draw: &Draw) -> Vec<(usize, f64)> {
    let temperature = f64::from(draw.temperature);
    let mut order: Vec<usize> = (0..logits.len()).filter(|i| !logits[*i].is_nan()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    if temperature == 0.0 {
        return vec![(order[0], 1.0)];
    }
    let max = f64::from(logits[order[0]]);
    let weight = |i: usize| ((f64::from(logits[i]) - max) / temperature).exp();
    if draw.min_p > 0.0 {
        order.retain(|i| weight(*i) >= f64::from(draw.min_p));
    }
    if draw.top_k > 0 {
        order.truncate(draw.top_k as usize);
    }
    if draw.top_p < 1.0 {
        let total: f64 = order.iter().map(|i| weight(*i)).sum();
        let mut sum = 0.0;
        let last = order.iter().position(|i| {
            sum += weight(*i);
            sum >= total * f64::from(draw.top_p)
        });
        order.truncate(last.map_or(order.len(), |last| last + 1));
    }
    order.sort_unstable();
    let total: f64 = order.iter().map(|i| weight(*i)).sum();
    order.into_iter().map(|i| (i, weight(i) / total)).collect()
}

/// The random number that falls into the middle of each token's share draws that token, and nothing outside is drawn.
#[test]
fn every_chain_draws_what_it_may_and_as_often() {
    let (device, mut random) = (device(), Random(8));
    let chains = [
        ALL,
        Draw { temperature: 0.0, ..ALL },
        Draw { temperature: 0.5, ..ALL },
        Draw { top_k: 1, ..ALL },
        Draw { top_k: 3, temperature: 2.0, ..ALL },
        Draw { top_p: 0.5, ..ALL },
        Draw { top_p: 0.01, ..ALL },
        Draw { min_p: 0.3, ..ALL },
        Draw { min_p: 0.05, top_k: 7, top_p: 0.8, temperature: 0.7, unit: 0.0 },
        Draw { top_k: 4, top_p: 0.99, ..ALL },
    ];
    for vocab in [1, 7, 600, 1500] {
        let mut logits: Vec<f32> = random.floats(vocab).iter().map(|x| x * 6.0).collect();
        // Equal ones, at the top and elsewhere, and no numbers.
        if vocab > 5 {
            logits[2] = 5.5;
            logits[4] = 5.5;
            logits[5] = 5.5;
            logits[1] = f32::NAN;
            logits[3] = f32::NEG_INFINITY;
        }
        for chain in &chains {
            let expected = distribution(&logits, chain);
            // The largest shares, and every one where there are few.
            let mut shares: Vec<(usize, f64)> = Vec::new();
            let mut before = 0.0;
            for (token, share) in &expected {
                // A random number has 24 bits here.
                if *share > 1e-5 {
                    shares.push((*token, before + share / 2.0));
                }
                before += share;
            }
            shares.retain(|_| expected.len() < 30 || random.below(expected.len() / 30 + 1) == 0);
            let draws: Vec<Draw> =
                shares.iter().map(|(_, unit)| Draw { unit: *unit as f32, ..*chain }).collect();
            let rows = draws.len();
            let there = device.upload(&logits.repeat(rows)).unwrap();
            let tokens = device.alloc(rows * 4).unwrap();
            let (draws, shape) = (device.upload(&draws).unwrap(), [rows, vocab]);
            ops::sample(&device, &there, shape, &draws, &tokens).unwrap();
            let tokens: Vec<i32> = read(&tokens);
            for ((token, unit), drawn) in shares.iter().zip(tokens) {
                assert_eq!(drawn, *token as i32, "{chain:?} of {vocab} at {unit}");
            }
        }
    }
}

#[test]
fn a_row_without_numbers_draws_nothing() {
    let device = device();
    let mut logits = vec![f32::NAN; 2 * 40];
    logits[50] = -3.0;
    let draws = device.upload(&[ALL, Draw { unit: 0.999_999_9, ..ALL }]).unwrap();
    let tokens = device.alloc(8).unwrap();
    ops::sample(&device, &device.upload(&logits).unwrap(), [2, 40], &draws, &tokens).unwrap();
    assert_eq!(read::<i32>(&tokens), [-1, 10]);
    // An infinite logit is as good as certain.
    logits[7] = f32::INFINITY;
    ops::sample(&device, &device.upload(&logits).unwrap(), [2, 40], &draws, &tokens).unwrap();
    assert_eq!(read::<i32>(&tokens), [7, 10]);
}
