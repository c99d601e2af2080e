//! Amounts that are added up.

use neuron_protocol::Cost;
use serde_json::{Value, json};
use std::ops::{Add, Sub};

/// What requests have used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub requests: u64,
    pub prompt_tokens: u64,
    /// Of the prompt's.
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    /// Billionths of a US dollar.
    pub nano_usd: u64,
}

impl Counts {
    /// Of prompts and answers.
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }

    pub(super) fn json(&self) -> Value {
        json!({"requests": self.requests, "prompt_tokens": self.prompt_tokens,
               "cached_prompt_tokens": self.cached_tokens, "completion_tokens": self.completion_tokens,
               "cost_usd": self.nano_usd as f64 / 1e9})
    }

    fn each(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            requests: with(self.requests, other.requests),
            prompt_tokens: with(self.prompt_tokens, other.prompt_tokens),
            cached_tokens: with(self.cached_tokens, other.cached_tokens),
            completion_tokens: with(self.completion_tokens, other.completion_tokens),
            nano_usd: with(self.nano_usd, other.nano_usd),
        }
    }
}

impl Add for Counts {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }
}

impl Sub for Counts {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.each(other, u64::saturating_sub)
    }
}

/// Billionths of a US dollar; prices are US dollars for a million tokens. What has no price costs nothing, and
/// cached tokens without a price of their own cost what others do.
pub fn cost(price: Option<&Cost>, prompt: u64, cached: u64, completion: u64) -> u64 {
    let Some(price) = price else { return 0 };
    let input = price.input.unwrap_or(0.0);
    let cached = cached.min(prompt);
    let of = |tokens: u64, price: f64| tokens as f64 * price * 1000.0;
    let sum = of(prompt - cached, input)
        + of(cached, price.cache_read.unwrap_or(input))
        + of(completion, price.output.unwrap_or(0.0));
    // As a cast: below zero and no number at all are 0.
    sum.round() as u64
}
