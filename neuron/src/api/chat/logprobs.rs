//! How likely tokens were, as chat completions have it.

use serde_json::{Value, json};

use crate::{api::answer::Drawn, tokenizer::Tokenizer};

/// `null` where nothing was asked for.
pub(super) fn logprobs(tokenizer: Option<&Tokenizer>, tokens: &[Drawn]) -> Value {
    let Some(tokenizer) = tokenizer else { return Value::Null };
    let one = |id: u32, logprob: f32| {
        let bytes = spelled(tokenizer, id);
        let text = String::from_utf8_lossy(&bytes);
        json!({ "token": text, "logprob": finite(logprob), "bytes": bytes })
    };
    let content: Vec<Value> = tokens
        .iter()
        .filter_map(|drawn| {
            let told = drawn.logprobs.as_ref()?;
            let mut token = one(drawn.id, told.chosen);
            token["top_logprobs"] = told.top.iter().map(|(id, logprob)| one(*id, *logprob)).collect();
            Some(token)
        })
        .collect();
    json!({ "content": content, "refusal": null })
}

/// What a token says; a control token is spelled.
pub(in crate::api) fn spelled(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    match tokenizer.piece(id) {
        [] => tokenizer.spelling_of(id).as_bytes().to_vec(),
        piece => piece.to_vec(),
    }
}

/// JSON has no infinity; OpenAI says this of what is as good as impossible.
pub(in crate::api) fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}
