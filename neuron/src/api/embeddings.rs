//! `POST /v1/embeddings`: a vector for each text.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::HeaderMap;
use neuron_protocol::prefix::tenant;
use serde_json::{Value, json};

use super::{
    App,
    answer::Answer,
    body::json_object,
    error::ApiError,
    fields::{Fields, missing, wrong_type},
    params::CALLER,
};
use crate::{
    device::Seat,
    embeds::{Dimensions, Embeds},
    engine::{Event, Generation, Sampling},
    registry::Ready,
};

/// Texts of a request; more are refused with 413, and are for another request.
const MAX_INPUTS: usize = 2048;
/// Texts of a request that are with the engine at once: as many as one step takes.
const AT_ONCE: usize = 64;

enum Input {
    Text(String),
    Ids(Vec<u32>),
}

/// What a request wants beside its texts.
struct Wanted {
    dimensions: Option<usize>,
    is_base64: bool,
    /// Tokens of a text that count; `None`: a text that is too long is refused.
    truncate: Option<usize>,
}

pub(super) async fn embeddings(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let object = json_object(body).await?;
    let fields = Fields(&object);
    let model = fields.text("model")?.ok_or_else(|| missing("model"))?.to_owned();
    let ready = app.registry.ready(&model).map_err(|why| ApiError::not_ready(&model, why))?;
    let Some(embeds) = ready.embeds().cloned() else {
        let text = format!("{model} writes text and makes no embeddings");
        return Err(ApiError::invalid("model", "embeddings_unsupported", text));
    };
    let inputs = inputs(fields)?;
    let wanted = wanted(fields, &embeds, &ready)?;
    let seat = Answer::admit(&app, &ready)?;
    let (text, window, truncate) = (Arc::clone(&ready), ready.window(), wanted.truncate);
    let work = move || {
        let all = inputs.into_iter().map(|input| tokens(&text, input, window, truncate));
        all.collect::<Result<Vec<_>, ApiError>>()
    };
    let prompts = app.tokenizing.run(work).await??;
    let used: usize = prompts.iter().map(Vec::len).sum();

    let name = headers.get(CALLER).map(|name| name.as_bytes()).unwrap_or_default();
    let caller: Arc<str> = tenant(name).into();
    let mut first = Some(seat);
    let jobs = prompts.into_iter().map(|prompt| {
        // The request was let in as one: its other texts are bounded by how many go at once.
        let seat = first.take().or_else(|| ready.stats.admit(u64::MAX >> 1));
        vector(&app, &ready, &model, seat, generation(&ready, &embeds, prompt, Arc::clone(&caller)))
    });
    let vectors: Vec<Vec<f32>> = stream::iter(jobs).buffered(AT_ONCE).try_collect().await?;
    let data = vectors.into_iter().enumerate().map(|(index, vector)| {
        let vector = embeds.finish(vector, wanted.dimensions);
        json!({ "object": "embedding", "index": index, "embedding": told(&vector, wanted.is_base64) })
    });
    let usage = json!({ "prompt_tokens": used, "total_tokens": used });
    let data: Vec<Value> = data.collect();
    Ok(Json(json!({ "object": "list", "data": data, "model": model, "usage": usage })).into_response())
}

fn generation(ready: &Ready, embeds: &Embeds, prompt: Vec<u32>, caller: Arc<str>) -> Generation {
    Generation {
        model: ready.key,
        caller,
        prompt,
        max_tokens: 0,
        min_tokens: 0,
        sampling: Sampling::default(),
        end: Arc::default(),
        ignore_end: false,
        stops: Arc::default(),
        logprobs: None,
        prompt_logprobs: None,
        pooling: Some(embeds.pooling),
        guide: None,
        thoughts: None,
    }
}

async fn vector(
    app: &App,
    ready: &Ready,
    model: &str,
    seat: Option<Seat>,
    generation: Generation,
) -> Result<Vec<f32>, ApiError> {
    let seat = seat.ok_or_else(|| ApiError::overloaded("too many requests wait for this model already"))?;
    let patience = app.registry.config.engine.queue_timeout;
    let mut events = app.registry.device(ready).generate(generation, seat, patience)?;
    loop {
        match events.recv().await {
            Some(Event::Vector(vector)) if vector.iter().all(|x| x.is_finite()) => return Ok(vector),
            Some(Event::Vector(_)) => {
                let failure = crate::device::Failure::Model("the model's output is not a number".to_owned());
                return Err(ApiError::failure(&ready.id, &failure));
            }
            Some(Event::Failed(failure)) => return Err(ApiError::failure(model, &failure)),
            Some(_) => {}
            None => return Err(ApiError::stopping()),
        }
    }
}

/// A list of numbers, or their bytes, little-endian, as text.
fn told(vector: &[f32], is_base64: bool) -> Value {
    if !is_base64 {
        return vector.into();
    }
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    STANDARD.encode(bytes).into()
}

/// A text or token ids, or an array of such.
fn inputs(fields: Fields<'_>) -> Result<Vec<Input>, ApiError> {
    let input = fields.get("input").ok_or_else(|| missing("input"))?;
    let several = match input {
        Value::Array(items) if items.first().is_none_or(|item| !item.is_number()) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    if several.is_empty() {
        return Err(ApiError::invalid("input", "invalid_value", "input is empty"));
    }
    if several.len() > MAX_INPUTS {
        return Err(ApiError::too_many(several.len(), MAX_INPUTS));
    }
    several.iter().enumerate().map(|(i, input)| one(i, input)).collect()
}

fn one(i: usize, input: &Value) -> Result<Input, ApiError> {
    let at = format!("input[{i}]");
    match input {
        Value::String(text) if text.is_empty() => {
            Err(ApiError::invalid(&at, "invalid_value", format!("{at}: an empty text has no meaning")))
        }
        Value::String(text) => Ok(Input::Text(text.clone())),
        Value::Array(ids) if ids.is_empty() => Err(ApiError::invalid(
            &at,
            "invalid_value",
            format!("{at}: a text without tokens has no meaning"),
        )),
        Value::Array(ids) => {
            let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
            let ids = ids
                .iter()
                .map(|given| id(given).ok_or_else(|| wrong_type(&at, "an array of token ids", given)));
            Ok(Input::Ids(ids.collect::<Result<_, _>>()?))
        }
        other => Err(wrong_type(&at, "a string or an array of token ids", other)),
    }
}

fn wanted(fields: Fields<'_>, embeds: &Embeds, ready: &Ready) -> Result<Wanted, ApiError> {
    let is_base64 = match fields.text("encoding_format")? {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let text = format!("encoding_format: {other:?} is neither \"float\" nor \"base64\"");
            return Err(ApiError::invalid("encoding_format", "invalid_value", text));
        }
    };
    let dimensions = fields.whole("dimensions", 1..=i64::from(u32::MAX))?.map(i64::unsigned_abs);
    if let Some(dimensions) = dimensions {
        let refuse = |text: String| Err(ApiError::invalid("dimensions", "invalid_value", text));
        match &embeds.dimensions {
            Dimensions::Whole => {
                return refuse(format!("dimensions: vectors of {} mean nothing when they are cut", ready.id));
            }
            Dimensions::Some(some) if !some.contains(&dimensions) => {
                return refuse(format!("dimensions: {dimensions} is none of {some:?}"));
            }
            Dimensions::Some(_) | Dimensions::Any => {}
        }
    }
    // -1: as many as the model takes.
    let truncate = fields.whole("truncate_prompt_tokens", -1..=i64::from(u32::MAX))?;
    let truncate = truncate.map(|most| usize::try_from(most).unwrap_or(usize::MAX).min(ready.window()));
    Ok(Wanted { dimensions: dimensions.and_then(|n| usize::try_from(n).ok()), is_base64, truncate })
}

fn tokens(ready: &Ready, input: Input, window: usize, truncate: Option<usize>) -> Result<Vec<u32>, ApiError> {
    let tokenizer = &ready.text.tokenizer;
    let ids = match input {
        // Said from the length alone: megabytes need not be tokenized to be refused.
        Input::Text(text) if truncate.is_none() && tokenizer.fewest(text.len()) > window => {
            let text = format!("input: a text has more than {window} tokens; truncate_prompt_tokens cuts it");
            return Err(ApiError::invalid("input", "context_length_exceeded", text));
        }
        Input::Text(text) => tokenizer.encode_passage(&text, truncate),
        Input::Ids(ids) => {
            if let Some(id) = ids.iter().find(|id| **id as usize >= tokenizer.vocab_size()) {
                let text =
                    format!("input: there is no token {id}: this model has {}", tokenizer.vocab_size());
                return Err(ApiError::invalid("input", "invalid_value", text));
            }
            ids.into_iter().take(truncate.unwrap_or(usize::MAX)).collect()
        }
    };
    if ids.len() > window {
        let text = format!(
            "input: a text has {} tokens, where {window} are taken; truncate_prompt_tokens cuts it",
            ids.len()
        );
        return Err(ApiError::invalid("input", "context_length_exceeded", text));
    }
    if ids.is_empty() {
        return Err(ApiError::invalid(
            "input",
            "invalid_value",
            "input: a text without tokens has no meaning",
        ));
    }
    Ok(ids)
}
