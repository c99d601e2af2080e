//! Models without a server: chunks, positions, resets.

use neuron::engine::Model;

use crate::support::{self, Gguf};

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Feeds `tokens` in chunks as the engine would, but of `most` tokens at most.
fn in_chunks(model: &mut dyn Model, tokens: &[u32], most: usize) -> Vec<f32> {
    model.reset();
    let (mut position, mut logits) = (0, Vec::new());
    while position < tokens.len() {
        let chunk = model.chunk(tokens.len() - position).min(most);
        assert!((1..=tokens.len() - position).contains(&chunk));
        logits = model.forward(&tokens[position..position + chunk], position).unwrap();
        position += chunk;
    }
    logits
}

fn whole(model: &mut dyn Model, tokens: &[u32]) -> Vec<f32> {
    model.reset();
    model.forward(tokens, 0).unwrap()
}

fn one_by_one(model: &mut dyn Model, tokens: &[u32]) -> Vec<f32> {
    model.reset();
    let steps = tokens.iter().enumerate().map(|(i, token)| model.forward(&[*token], i).unwrap());
    steps.last().unwrap()
}

#[test]
fn a_prompt_in_chunks_is_the_prompt_in_one_piece() {
    for architecture in ["llama", "qwen2", "qwen3"] {
        let hub = tempfile::tempdir().unwrap();
        Gguf::tiny(architecture).install(hub.path(), "m");
        let (_, mut model) = support::load(&hub.path().join("models--test--m/snapshots/one/m.F32.gguf"));
        let tokens: Vec<u32> = (0..300).map(|i| (i * 7) % 256).collect();
        for len in [1, 2, 127, 128, 129, 257, 300] {
            let tokens = &tokens[..len];
            let expected = whole(model.as_mut(), tokens);
            assert_eq!(expected.len(), 259);
            assert!(expected.iter().all(|logit| logit.is_finite()));
            let chunked = distance(&expected, &in_chunks(model.as_mut(), tokens, 128));
            assert!(chunked < 1e-3, "{architecture}, {len} tokens in chunks: {chunked}");
            if len < 130 {
                let single = distance(&expected, &one_by_one(model.as_mut(), tokens));
                assert!(single < 1e-3, "{architecture}, {len} tokens one by one: {single}");
            }
        }
    }
}

#[test]
fn the_real_model_prefers_the_same_token_however_its_prompt_is_cut() {
    let (checked, mut model) = support::load(&support::model_file());
    let tokens = checked.text.tokenizer.encode(&"The quick brown fox jumps over the lazy dog. ".repeat(4));
    let best = |logits: &[f32]| (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
    let (one, cut) = (whole(model.as_mut(), &tokens), in_chunks(model.as_mut(), &tokens, 16));
    assert_eq!(best(&one), best(&cut));
    // Activations are rounded to 8 bits, so another order of sums shows; a wrong mask would show far more.
    assert!(distance(&one, &cut) < 3.0, "{}", distance(&one, &cut));
}
