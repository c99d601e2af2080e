//! What chat and plain completions have in common: sampling, limits, streaming, the form of the answer.

mod format;
mod sampling;
mod tools;

use std::sync::Arc;

use http::HeaderMap;
use neuron_protocol::prefix::tenant;
use serde_json::Value;

use super::{
    error::ApiError,
    fields::{Fields, missing, wrong_type},
};
use crate::grammar::Form;
use sampling::Asked;

pub(super) use tools::Tools;

/// Stop strings of a request.
const MAX_STOPS: usize = 16;
/// Tokens that end an answer, and biases, of a request.
const MAX_IDS: usize = 1024;
/// Answers to one request.
const MAX_ANSWERS: i64 = 32;
/// Likeliest tokens that are told beside each.
const MAX_TOP: i64 = 20;

/// The checked parameters of a generation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Params {
    pub(super) model: String,
    pub(super) sampling: Asked,
    /// `None`: as the configuration says.
    pub(super) max_tokens: Option<usize>,
    pub(super) min_tokens: usize,
    pub(super) stop: Vec<String>,
    /// Tokens that end the answer as stop strings do.
    pub(super) stop_ids: Arc<[u32]>,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    /// Tokens that end an answer are not drawn.
    pub(super) ignore_end: bool,
    /// Answers to each prompt.
    pub(super) answers: usize,
    /// How likely each token was, and so many of the likeliest.
    pub(super) logprobs: Option<usize>,
    /// Token ids beside the text.
    pub(super) token_ids: bool,
    /// What the answer has to be.
    pub(super) form: Option<(&'static str, Form)>,
    /// Tokens that thoughts may have.
    pub(super) reasoning_budget: Option<usize>,
    /// Whom the request is for, as the gateway says: callers share fairly, and no cache.
    pub(super) caller: Arc<str>,
}

/// Which call the parameters are of; one name is not the same in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Completions,
}

/// The header that names the caller.
pub(super) const CALLER: &str = "x-cortex-tenant";

impl Params {
    pub(super) fn parse(fields: Fields<'_>, endpoint: Endpoint) -> Result<Self, ApiError> {
        let model = fields.text("model")?.ok_or_else(|| missing("model"))?.to_owned();
        // With an echo the prompt may be all that is wanted.
        let least = i64::from(!(endpoint == Endpoint::Completions && fields.flag("echo")?));
        let limit = |name| fields.whole(name, least..=i64::MAX);
        let max_tokens = match limit("max_completion_tokens")? {
            Some(limit) => Some(limit),
            None => limit("max_tokens")?,
        };
        let count = |name| Ok::<_, ApiError>(fields.whole(name, 0..=i64::MAX)?.map(to_usize));
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
        // -1 is how some clients write "as many as you like".
        let budget = match fields.whole("reasoning_budget", -1..=i64::MAX)? {
            Some(budget) => Some(budget),
            None => fields.whole("thinking_budget", -1..=i64::MAX)?,
        };
        let answers = answers(fields)?;
        Ok(Self {
            model,
            sampling: Asked::parse(fields)?,
            max_tokens: max_tokens.map(to_usize),
            min_tokens: count("min_tokens")?.unwrap_or(0),
            stop: stops(fields)?,
            stop_ids: ids(fields, "stop_token_ids")?,
            stream,
            include_usage,
            ignore_end: fields.flag("ignore_eos")?,
            answers,
            logprobs: logprobs(fields, endpoint)?,
            token_ids: fields.flag("return_token_ids")?,
            form: format::form(fields)?,
            reasoning_budget: budget.filter(|budget| *budget >= 0).map(to_usize),
            caller: Arc::default(),
        })
    }

    /// With the caller that the headers name.
    pub(super) fn from(self, headers: &HeaderMap) -> Self {
        let name = headers.get(CALLER).map(|name| name.as_bytes()).unwrap_or_default();
        // A long one is cut, which at worst makes two callers one.
        Self { caller: tenant(name).into(), ..self }
    }

    /// Checks the token ids against the model's vocabulary.
    pub(super) fn check_ids(&self, vocab: usize) -> Result<(), ApiError> {
        let stops = self.stop_ids.iter().map(|id| ("stop_token_ids", *id));
        let biases = self.sampling.logit_bias.iter().map(|(id, _)| ("logit_bias", *id));
        match stops.chain(biases).find(|(_, id)| *id as usize >= vocab) {
            None => Ok(()),
            Some((name, id)) => {
                let text = format!("{name}: there is no token {id}: this model has {vocab}");
                Err(ApiError::invalid(name, "invalid_value", text))
            }
        }
    }
}

fn to_usize(number: i64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn answers(fields: Fields<'_>) -> Result<usize, ApiError> {
    let n = fields.whole("n", 1..=MAX_ANSWERS)?.unwrap_or(1);
    // Making more of them than are told would be for the best of them, by what they are worth.
    if fields.whole("best_of", 1..=i64::MAX)?.is_some_and(|best| best != n) {
        let text = "best_of: it has to be n: all answers that are made are told here";
        return Err(ApiError::invalid("best_of", "unsupported_parameter", text));
    }
    Ok(to_usize(n))
}

/// Chat has a flag and a count, completions have a count.
fn logprobs(fields: Fields<'_>, endpoint: Endpoint) -> Result<Option<usize>, ApiError> {
    let counted = |name| Ok::<_, ApiError>(fields.whole(name, 0..=MAX_TOP)?.map(to_usize));
    if endpoint == Endpoint::Completions {
        return match fields.get("logprobs") {
            Some(Value::Bool(false)) => Ok(None),
            _ => counted("logprobs"),
        };
    }
    let (wanted, top) = (fields.flag("logprobs")?, counted("top_logprobs")?);
    if top.is_some_and(|top| top > 0) && !wanted {
        let text = "top_logprobs: logprobs has to be true for it";
        return Err(ApiError::invalid("top_logprobs", "invalid_value", text));
    }
    Ok(wanted.then(|| top.unwrap_or(0)))
}

fn ids(fields: Fields<'_>, name: &str) -> Result<Arc<[u32]>, ApiError> {
    let given = fields.array(name)?.unwrap_or_default();
    if given.len() > MAX_IDS {
        let text = format!("{name}: {} tokens, where at most {MAX_IDS} are taken", given.len());
        return Err(ApiError::invalid(name, "invalid_value", text));
    }
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    given
        .iter()
        .map(|given| id(given).ok_or_else(|| wrong_type(name, "an array of token ids", given)))
        .collect()
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
        let text = "stop: an empty string would stop everything";
        return Err(ApiError::invalid("stop", "invalid_value", text));
    }
    Ok(stops)
}

#[cfg(test)]
mod tests;
