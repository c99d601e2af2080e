use proptest::prelude::*;

use super::*;

fn logits(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln()).collect()
}

/// Shares of `draws` draws.
fn shares(sampling: &Sampling, probabilities: &[f32], draws: u16) -> Vec<f32> {
    let mut random = Sampler::new(Sampling { seed: Some(7), ..sampling.clone() }, &[]);
    let mut shares = vec![0.0; probabilities.len()];
    for _ in 0..draws {
        random.counts.clear();
        let token = random.sample(&mut logits(probabilities), &mut Scratch::default()).unwrap();
        shares[token as usize] += 1.0 / f32::from(draws);
    }
    shares
}

fn check(sampling: Sampling, probabilities: &[f32], expected: &[f32]) {
    let got = shares(&sampling, probabilities, 20_000);
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() < 0.015, "{sampling:?}: {got} for {expected}");
    }
}

#[test]
fn draws_follow_the_distribution() {
    let p = [0.5, 0.3, 0.15, 0.05];
    let plain = Sampling::default();
    check(plain.clone(), &p, &p);
    check(Sampling { temperature: 0.0, ..plain.clone() }, &p, &[1.0, 0.0, 0.0, 0.0]);
    check(Sampling { top_k: 2, ..plain.clone() }, &p, &[0.625, 0.375, 0.0, 0.0]);
    check(Sampling { top_p: 0.79, ..plain.clone() }, &p, &[0.625, 0.375, 0.0, 0.0]);
    check(Sampling { top_p: 0.0, ..plain.clone() }, &p, &[1.0, 0.0, 0.0, 0.0]);
    check(Sampling { min_p: 0.2, ..plain.clone() }, &p, &[0.5263, 0.3158, 0.1579, 0.0]);
    // A temperature of 0.5 squares the odds.
    check(Sampling { temperature: 0.5, ..plain }, &p, &[0.685, 0.247, 0.062, 0.007]);
}

/// What each token's chance is, by the definitions, in doubles and with a whole sort.
fn reference(sampling: &Sampling, logits: &[f32]) -> Vec<f64> {
    let mut logits: Vec<f64> = logits.iter().map(|logit| f64::from(*logit)).collect();
    for (token, bias) in sampling.logit_bias.iter() {
        logits[*token as usize] += f64::from(*bias);
    }
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let temperature = f64::from(sampling.temperature);
    let weights: Vec<f64> = logits.iter().map(|logit| ((logit - max) / temperature).exp()).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
    order.retain(|token| weights[*token] >= f64::from(sampling.min_p));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let whole: f64 = order.iter().map(|token| weights[*token]).sum();
    let (mut sum, mut kept) = (0.0, 0);
    while kept < order.len() && (kept == 0 || sum < whole * f64::from(sampling.top_p)) {
        sum += weights[order[kept]];
        kept += 1;
    }
    let mut chances = vec![0.0; weights.len()];
    order[..kept].iter().for_each(|token| chances[*token] = weights[*token] / sum);
    chances
}

/// Pearson's statistic of many draws, with the rare tokens taken together, as standard deviations above what chance
/// gives; a token that cannot come must not.
fn surprise(sampling: &Sampling, logits: &[f32], draws: u32) -> f64 {
    let chances = reference(sampling, logits);
    let mut sampler = Sampler::new(Sampling { seed: Some(11), ..sampling.clone() }, &[]);
    let (mut seen, mut scratch) = (vec![0u32; logits.len()], Scratch::default());
    for _ in 0..draws {
        seen[sampler.sample(&mut logits.to_vec(), &mut scratch).unwrap() as usize] += 1;
    }
    let (mut statistic, mut cells, mut rare) = (0.0, 0.0, (0.0, 0.0));
    let mut cell = |seen: f64, expected: f64| {
        statistic += (seen - expected).powi(2) / expected;
        cells += 1.0;
    };
    for (seen, chance) in seen.iter().zip(&chances) {
        assert!(*chance > 0.0 || *seen == 0, "{sampling:?} drew what it must not");
        match chance * f64::from(draws) {
            expected if expected >= 10.0 => cell(f64::from(*seen), expected),
            expected => rare = (rare.0 + f64::from(*seen), rare.1 + expected),
        }
    }
    if rare.1 >= 1.0 {
        cell(rare.0, rare.1);
    }
    let freedom: f64 = cells - 1.0;
    if freedom < 1.0 { 0.0 } else { (statistic - freedom) / (2.0 * freedom).sqrt() }
}

#[test]
fn draws_are_those_of_the_definitions() {
    // Peaked as a model's are, and flat; lengths that end within a block.
    let noise = |n: u32, wide: f32| -> Vec<f32> {
        let next = |i: u32| (f64::from(i.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 24)) as f32;
        (0..n).map(|i| wide * (next(i) * next(i + 7)).ln()).collect()
    };
    let plain = Sampling::default();
    let settings = [
        plain.clone(),
        Sampling { temperature: 0.7, ..plain.clone() },
        Sampling { temperature: 1.9, ..plain.clone() },
        Sampling { top_k: 40, ..plain.clone() },
        Sampling { top_k: 1, ..plain.clone() },
        Sampling { top_p: 0.9, ..plain.clone() },
        Sampling { top_p: 0.3, temperature: 1.5, ..plain.clone() },
        Sampling { min_p: 0.05, ..plain.clone() },
        Sampling { min_p: 1.0, ..plain.clone() },
        Sampling { temperature: 0.8, top_k: 50, top_p: 0.95, min_p: 0.02, ..plain.clone() },
        Sampling { top_k: 3000, top_p: 0.99, ..plain.clone() },
        Sampling { logit_bias: [(3, 4.0), (6, -100.0)].into(), top_p: 0.95, ..plain },
    ];
    for logits in [noise(2003, 3.0), noise(777, 0.2), noise(7, 1.0)] {
        for sampling in &settings {
            let surprise = surprise(sampling, &logits, 5_000);
            assert!(surprise < 5.0, "{surprise} for {sampling:?} on {} logits", logits.len());
        }
    }
}

#[test]
fn of_equal_logits_the_first_ones_are_kept() {
    let mut random = Sampler::new(Sampling { top_k: 2, seed: Some(1), ..Sampling::default() }, &[]);
    for _ in 0..100 {
        assert!(random.sample(&mut [0.5; 3000], &mut Scratch::default()).unwrap() < 2);
    }
}

#[test]
fn a_bias_bars_and_forces() {
    let bias = |token: u32, by: f32| {
        let sampling = Sampling { logit_bias: [(token, by)].into(), seed: Some(3), ..Sampling::default() };
        let mut sampler = Sampler::new(sampling, &[]);
        (0..200)
            .map(|_| sampler.sample(&mut [0.0, 1.0, 2.0], &mut Scratch::default()).unwrap())
            .collect::<Vec<_>>()
    };
    assert!(bias(2, -100.0).iter().all(|token| *token != 2));
    assert!(bias(0, 100.0).iter().all(|token| *token == 0));
    // One that the model lacks is none.
    assert!(bias(9, 100.0).contains(&2));
}

#[test]
fn logprobs_are_the_models_own() {
    let given = logits(&[0.5, 0.3, 0.15, 0.05]);
    let got = Logprobs::of(&given, 2, 2);
    assert!((got.chosen - 0.15f32.ln()).abs() < 1e-5);
    assert_eq!(got.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1]);
    assert!((got.top[0].1 - 0.5f32.ln()).abs() < 1e-5 && (got.top[1].1 - 0.3f32.ln()).abs() < 1e-5);
    assert_eq!(Logprobs::of(&given, 0, 0).top, []);
    assert_eq!(Logprobs::of(&given, 0, 20).top.len(), 4);
}

#[test]
fn top_p_reaches_beyond_the_first_candidates_sorted() {
    let p = vec![1.0 / 2000.0; 2000];
    let got = shares(&Sampling { top_p: 0.5, ..Sampling::default() }, &p, 4000);
    let kept = got.iter().filter(|share| **share > 0.0).count();
    assert!((900..=1000).contains(&kept), "{kept}");
}

#[test]
fn the_same_seed_draws_the_same_tokens() {
    let draw = |seed| {
        let mut sampler = Sampler::new(Sampling { seed: Some(seed), ..Sampling::default() }, &[]);
        (0..64)
            .map(|_| sampler.sample(&mut logits(&[0.25; 4]), &mut Scratch::default()).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    // A value that must not change between versions, or seeds in users' hands lose their meaning.
    assert_eq!(draw(42)[..8], [2, 0, 1, 1, 0, 3, 0, 3]);
}

#[test]
fn penalties_take_from_what_was_said() {
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let run = |sampling: Sampling, prompt: &[u32]| {
        let mut sampler = Sampler::new(sampling, prompt);
        (0..4)
            .map(|_| sampler.sample(&mut [2.0, 1.9, 0.5, -1.0], &mut Scratch::default()).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(run(greedy.clone(), &[]), [0, 0, 0, 0]);
    assert_eq!(run(Sampling { presence_penalty: 0.2, ..greedy.clone() }, &[0]), [0, 1, 0, 0]);
    assert_eq!(run(Sampling { frequency_penalty: 0.2, ..greedy.clone() }, &[0]), [0, 1, 0, 1]);
    // The prompt counts here, and what was penalised twice is penalised once.
    assert_eq!(run(Sampling { repetition_penalty: 1.5, ..greedy }, &[0]), [1, 0, 0, 0]);
}

#[test]
fn logits_that_are_no_numbers_are_never_drawn() {
    let mut sampler = Sampler::new(Sampling::default(), &[]);
    let mut scratch = Scratch::default();
    assert_eq!(sampler.sample(&mut [f32::NAN, 0.0, f32::NEG_INFINITY], &mut scratch), Some(1));
    assert_eq!(sampler.sample(&mut [f32::NAN, f32::NAN], &mut scratch), None);
    assert_eq!(sampler.sample(&mut [], &mut scratch), None);
}

proptest! {
    #[test]
    fn whatever_the_settings_a_token_of_the_vocabulary_comes(
        logits in prop::collection::vec(-50f32..50.0, 1..600),
        temperature in 0f32..3.0, top_p in 0f32..=1.0, top_k in 0usize..700, min_p in 0f32..=1.0, seed: u64,
    ) {
        let sampling = Sampling { temperature, top_p, top_k, min_p, seed: Some(seed), ..Sampling::default() };
        let token = Sampler::new(sampling, &[]).sample(&mut logits.clone(), &mut Scratch::default());
        prop_assert!((token.unwrap() as usize) < logits.len());
    }
}
