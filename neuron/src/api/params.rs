//! What chat and plain completions have in common: sampling, limits, streaming.

use std::sync::Arc;

use http::HeaderMap;
use neuron_protocol::prefix::tenant;
use serde_json::Value;

use super::{
    error::ApiError,
    fields::{Fields, missing, wrong_type},
};
use crate::engine::Sampling;

/// Stop strings of a request.
const MAX_STOPS: usize = 16;

/// The checked parameters of a generation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Params {
    pub(super) model: String,
    pub(super) sampling: Sampling,
    /// `None`: as the configuration says.
    pub(super) max_tokens: Option<usize>,
    pub(super) stop: Vec<String>,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    /// Tokens that end an answer are not drawn.
    pub(super) ignore_end: bool,
    /// Whom the request is for, as the gateway says: callers share fairly, and no cache.
    pub(super) caller: Arc<str>,
}

/// The header that names the caller.
pub(super) const CALLER: &str = "x-cortex-tenant";

impl Params {
    pub(super) fn parse(fields: Fields<'_>) -> Result<Self, ApiError> {
        let model = fields.text("model")?.ok_or_else(|| missing("model"))?.to_owned();
        refuse_unsupported(fields)?;
        let limit = |name| fields.whole(name, 1..=i64::MAX);
        let max_tokens = match limit("max_completion_tokens")? {
            Some(limit) => Some(limit),
            None => limit("max_tokens")?,
        };
        let stream = fields.flag("stream")?;
        let options = fields.object("stream_options")?;
        if options.is_some() && !stream {
            let text = "stream_options is only for streams: set stream to true";
            return Err(ApiError::invalid("stream_options", "invalid_value", text));
        }
        let include_usage = match options {
            Some(options) => Fields(options).flag("include_usage")?,
            None => false,
        };
        Ok(Self {
            model,
            sampling: sampling(fields)?,
            max_tokens: max_tokens.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            stop: stops(fields)?,
            stream,
            include_usage,
            ignore_end: fields.flag("ignore_eos")?,
            caller: Arc::default(),
        })
    }

    /// With the caller that the headers name.
    pub(super) fn from(self, headers: &HeaderMap) -> Self {
        let name = headers.get(CALLER).map(|name| name.as_bytes()).unwrap_or_default();
        // A long one is cut, which at worst makes two callers one.
        Self { caller: tenant(name).into(), ..self }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "every range is far within what f32 holds")]
fn sampling(fields: Fields<'_>) -> Result<Sampling, ApiError> {
    let number = |name, range, default: f32| {
        Ok::<_, ApiError>(fields.number(name, range)?.map_or(default, |number| number as f32))
    };
    // -1 is how some clients write "all".
    let top_k = fields.whole("top_k", -1..=i64::from(u32::MAX))?.unwrap_or(0).max(0);
    Ok(Sampling {
        temperature: number("temperature", 0.0..=2.0, 1.0)?,
        top_p: number("top_p", 0.0..=1.0, 1.0)?,
        top_k: usize::try_from(top_k).unwrap_or(usize::MAX),
        min_p: number("min_p", 0.0..=1.0, 0.0)?,
        repetition_penalty: number("repetition_penalty", 0.01..=10.0, 1.0)?,
        presence_penalty: number("presence_penalty", -2.0..=2.0, 0.0)?,
        frequency_penalty: number("frequency_penalty", -2.0..=2.0, 0.0)?,
        seed: fields.whole("seed", i64::MIN..=i64::MAX)?.map(i64::cast_unsigned),
    })
}

fn stops(fields: Fields<'_>) -> Result<Vec<String>, ApiError> {
    let expected = "a string or an array of strings";
    let stops = match fields.get("stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(stops)) => stops
            .iter()
            .map(|stop| stop.as_str().map(str::to_owned).ok_or_else(|| wrong_type("stop", expected, stop)))
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong_type("stop", expected, other)),
    };
    if stops.len() > MAX_STOPS {
        let text = format!("stop: {} strings, where at most {MAX_STOPS} are taken", stops.len());
        return Err(ApiError::invalid("stop", "invalid_value", text));
    }
    if stops.iter().any(String::is_empty) {
        return Err(ApiError::invalid(
            "stop",
            "invalid_value",
            "stop: an empty string would stop everything",
        ));
    }
    Ok(stops)
}

/// Fields whose meaning would be lost if they were ignored.
fn refuse_unsupported(fields: Fields<'_>) -> Result<(), ApiError> {
    let refuse = |name: &str, text: &str| {
        Err(ApiError::invalid(name, "unsupported_parameter", format!("{name}: {text}")))
    };
    for name in ["n", "best_of"] {
        if fields.whole(name, 1..=i64::MAX)?.is_some_and(|n| n != 1) {
            return refuse(name, "one answer a request is made here");
        }
    }
    if fields.get("logprobs").is_some_and(|value| *value != Value::Bool(false)) {
        return refuse("logprobs", "log probabilities are not given out here");
    }
    if fields.whole("top_logprobs", 0..=i64::MAX)?.is_some_and(|n| n > 0) {
        return refuse("top_logprobs", "log probabilities are not given out here");
    }
    if fields.object("logit_bias")?.is_some_and(|bias| !bias.is_empty()) {
        return refuse("logit_bias", "logits cannot be biased here");
    }
    if fields.get("tool_choice").is_some_and(|choice| choice != "none" && choice != "auto") {
        return refuse("tool_choice", "only \"auto\" and \"none\": a call cannot be forced here");
    }
    let format = fields.object("response_format")?.and_then(|format| format.get("type"));
    if format.is_some_and(|kind| kind != "text") {
        return refuse("response_format", "only \"text\" is made here");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: Value) -> Result<Params, (String, Option<String>)> {
        let Value::Object(object) = value else { panic!("an object") };
        Params::parse(Fields(&object)).map_err(|e| (e.body.message, e.body.param))
    }

    #[test]
    fn defaults_are_openais() {
        let params = parse(json!({"model": "m", "unknown": [1], "temperature": null})).unwrap();
        assert_eq!(params.sampling, Sampling::default());
        assert_eq!((params.max_tokens, params.stream, params.stop.len()), (None, false, 0));
    }

    #[test]
    fn every_field_arrives() {
        let params = parse(json!({
            "model": "m", "temperature": 0, "top_p": 0.5, "top_k": 40, "min_p": 0.1, "seed": -1,
            "repetition_penalty": 1.1, "presence_penalty": -2, "frequency_penalty": 2.0, "n": 1,
            "max_tokens": 5, "max_completion_tokens": 6.0, "stop": ["a", "b"], "stream": true,
            "stream_options": {"include_usage": true}, "ignore_eos": true, "logprobs": false, "tool_choice": "auto", "response_format": {"type": "text"},
        }))
        .unwrap();
        let sampling = Sampling {
            temperature: 0.0,
            top_p: 0.5,
            top_k: 40,
            min_p: 0.1,
            repetition_penalty: 1.1,
            presence_penalty: -2.0,
            frequency_penalty: 2.0,
            seed: Some(u64::MAX),
        };
        let stop = vec!["a".into(), "b".into()];
        let expected = Params {
            model: "m".into(),
            sampling,
            max_tokens: Some(6),
            stop,
            stream: true,
            include_usage: true,
            ignore_end: true,
            caller: Arc::default(),
        };
        assert_eq!(params, expected);
        assert_eq!(parse(json!({"model": "m", "stop": "x", "top_k": -1})).unwrap().stop, ["x"]);
    }

    #[test]
    fn errors_name_the_field() {
        let check = |name: &str, value: Value, expected: &str| {
            let (message, param) = parse(json!({"model": "m", name: value})).unwrap_err();
            assert_eq!(param.as_deref(), Some(name), "{message}");
            assert!(message.contains(expected), "{message}");
        };
        check("model", json!(1), "model is a number, where a string is expected");
        check("temperature", json!("hot"), "a number is expected");
        check("temperature", json!(2.1), "2.1 is not between 0 and 2");
        check("top_p", json!(-0.1), "not between 0 and 1");
        check("max_tokens", json!(0), "0 is less than 1");
        check("max_tokens", json!(1.5), "a whole number");
        check("stop", json!([1]), "a string or an array of strings");
        check("stop", json!({}), "a string or an array of strings");
        check("stop", json!([""]), "empty");
        check("stop", json!(vec!["x"; 17]), "at most 16");
        check("stream", json!("yes"), "true or false");
        check("stream_options", json!({}), "stream to true");
        check("n", json!(2), "one answer");
        check("logprobs", json!(true), "not given out");
        check("logprobs", json!(5), "not given out");
        check("logit_bias", json!({"1": 2}), "biased");
        check("tool_choice", json!("required"), "cannot be forced");
        check("tool_choice", json!({"type": "function", "function": {"name": "f"}}), "cannot be forced");
        check("response_format", json!({"type": "json_object"}), "only \"text\"");
        let (message, param) = parse(json!({})).unwrap_err();
        assert_eq!((message.as_str(), param.as_deref()), ("model is missing", Some("model")));
    }
}
