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
        let token = random.sample(&mut logits(probabilities)).unwrap();
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
        (0..64).map(|_| sampler.sample(&mut logits(&[0.25; 4])).unwrap()).collect::<Vec<_>>()
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
        (0..4).map(|_| sampler.sample(&mut [2.0, 1.9, 0.5, -1.0]).unwrap()).collect::<Vec<_>>()
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
    assert_eq!(sampler.sample(&mut [f32::NAN, 0.0, f32::NEG_INFINITY]), Some(1));
    assert_eq!(sampler.sample(&mut [f32::NAN, f32::NAN]), None);
    assert_eq!(sampler.sample(&mut []), None);
}

proptest! {
    #[test]
    fn whatever_the_settings_a_token_of_the_vocabulary_comes(
        logits in prop::collection::vec(-50f32..50.0, 1..600),
        temperature in 0f32..3.0, top_p in 0f32..=1.0, top_k in 0usize..700, min_p in 0f32..=1.0, seed: u64,
    ) {
        let sampling = Sampling { temperature, top_p, top_k, min_p, seed: Some(seed), ..Sampling::default() };
        let token = Sampler::new(sampling, &[]).sample(&mut logits.clone());
        prop_assert!((token.unwrap() as usize) < logits.len());
    }
}
