//! How tokens are to be drawn, as far as the request says it.

use std::sync::Arc;

use serde_json::Value;

use super::MAX_IDS;
use crate::{
    api::{
        error::ApiError,
        fields::{Fields, wrong_type},
    },
    defaults::Defaults,
    engine::Sampling,
};

/// A request's own settings; the model's stand in for what is missing.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::api) struct Asked {
    pub(super) temperature: Option<f32>,
    pub(super) top_p: Option<f32>,
    pub(super) top_k: Option<usize>,
    pub(super) min_p: Option<f32>,
    pub(super) repetition_penalty: Option<f32>,
    pub(super) presence_penalty: Option<f32>,
    pub(super) frequency_penalty: Option<f32>,
    pub(super) logit_bias: Arc<[(u32, f32)]>,
    pub(super) seed: Option<u64>,
}

impl Asked {
    #[expect(clippy::cast_possible_truncation, reason = "every range is far within what f32 holds")]
    pub(super) fn parse(fields: Fields<'_>) -> Result<Self, ApiError> {
        let number = |name, range| Ok::<_, ApiError>(fields.number(name, range)?.map(|number| number as f32));
        // -1 is how some clients write "all".
        let top_k = fields.whole("top_k", -1..=i64::from(u32::MAX))?.map(|k| k.max(0));
        Ok(Self {
            temperature: number("temperature", 0.0..=2.0)?,
            top_p: number("top_p", 0.0..=1.0)?,
            top_k: top_k.map(|k| usize::try_from(k).unwrap_or(usize::MAX)),
            min_p: number("min_p", 0.0..=1.0)?,
            repetition_penalty: number("repetition_penalty", 0.01..=10.0)?,
            presence_penalty: number("presence_penalty", -2.0..=2.0)?,
            frequency_penalty: number("frequency_penalty", -2.0..=2.0)?,
            logit_bias: bias(fields)?,
            seed: fields.whole("seed", i64::MIN..=i64::MAX)?.map(i64::cast_unsigned),
        })
    }

    /// For the answer of this number to the same prompt: a seed gives each its own draws.
    pub(in crate::api) fn over(&self, defaults: &Defaults, number: usize) -> Sampling {
        let plain = Sampling::default();
        Sampling {
            temperature: self.temperature.or(defaults.temperature).unwrap_or(plain.temperature),
            top_p: self.top_p.or(defaults.top_p).unwrap_or(plain.top_p),
            top_k: self.top_k.or(defaults.top_k).unwrap_or(plain.top_k),
            min_p: self.min_p.or(defaults.min_p).unwrap_or(plain.min_p),
            repetition_penalty: self
                .repetition_penalty
                .or(defaults.repetition_penalty)
                .unwrap_or(plain.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(plain.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(plain.frequency_penalty),
            logit_bias: Arc::clone(&self.logit_bias),
            seed: self.seed.map(|seed| seed.wrapping_add(number as u64)),
        }
    }
}

/// Token ids, which are names of fields, and what is added to their logits.
fn bias(fields: Fields<'_>) -> Result<Arc<[(u32, f32)]>, ApiError> {
    let name = "logit_bias";
    let Some(given) = fields.object(name)? else { return Ok(Arc::default()) };
    if given.len() > MAX_IDS {
        let text = format!("{name}: {} tokens, where at most {MAX_IDS} are taken", given.len());
        return Err(ApiError::invalid(name, "invalid_value", text));
    }
    let one = |(id, bias): (&String, &Value)| {
        let id = id.parse().map_err(|_| {
            let text = format!("{name}: {id:?} is no token id: a whole number is expected");
            ApiError::invalid(name, "invalid_value", text)
        })?;
        let number = bias.as_f64().ok_or_else(|| wrong_type(name, "an object of numbers", bias))?;
        if !(-100.0..=100.0).contains(&number) {
            let text = format!("{name}: {number} is not between -100 and 100");
            return Err(ApiError::invalid(name, "invalid_value", text));
        }
        #[expect(clippy::cast_possible_truncation, reason = "it is at most 100")]
        let number = number as f32;
        // By what OpenAI says of it, these two bar and force.
        let number = if number.abs() == 100.0 { number * f32::from(u8::MAX) } else { number };
        Ok((id, number))
    };
    given.iter().map(one).collect()
}
