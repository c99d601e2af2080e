//! The model's arithmetic against llama.cpp's.

use crate::support;

/// Fed llama.cpp's own tokens, each of them must be nearly as likely here as our own first choice: two
/// roundings of one model may differ in which of two equals comes first, but not by more.
#[test]
fn llama_cpps_tokens_are_likely_here_too() {
    let (checked, mut model) = support::load(&support::model_file());
    let data = support::data("llama-cpp-greedy.json");
    for prompt in data["prompts"].as_array().unwrap() {
        let start = support::ids(&prompt["prompt_ids"]);
        assert_eq!(checked.text.tokenizer.encode_prompt(prompt["prompt"].as_str().unwrap()), start);
        let tokens = support::ids(&prompt["ids"]);
        assert_eq!(tokens.len(), 64);
        let mut logits = model.alone(&start, 0, 512);
        for (i, token) in tokens.iter().enumerate() {
            // The reference was made with ignore_eos.
            checked.text.tokenizer.end_ids().iter().for_each(|end| logits[*end as usize] = f32::NEG_INFINITY);
            let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let ratio = (logits[*token as usize] - best).exp();
            assert!(ratio >= 0.8, "token {i} of {}: {ratio} of our first choice", prompt["message"]);
            logits = model.alone(&[*token], start.len() + i, 1);
        }
    }
}
