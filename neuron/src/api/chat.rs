//! `POST /v1/chat/completions`.

mod chunks;
mod conversation;
mod logprobs;
mod whole;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::HeaderMap;
use serde_json::{Value, json};

use super::{
    App,
    answer::{Answer, prepare},
    body,
    error::{self, ApiError},
    fields::Fields,
    layers::unique,
    params::{Endpoint, Params, Tools},
    remember::Remember,
    sse, tokens,
};
pub(super) use conversation::conversation;
pub(super) use logprobs::{finite, spelled};

pub(super) async fn chat(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = body::bytes(body).await?;
    let object = body::object(&body)?;
    let fields = Fields(&object);
    let params = Arc::new(Params::parse(fields, Endpoint::Chat)?.from(&headers));
    let tools = Tools::parse(fields)?;
    let conversation = Arc::new(conversation(fields)?);
    let ready = app.registry.ready(&params.model).map_err(|why| ApiError::not_ready(&params.model, why))?;
    error::refuse_encoder(&ready)?;
    params.check_ids(ready.text.tokenizer.vocab_size())?;
    let seat = Answer::admit(&app, &ready)?;
    let work = {
        let (ready, conversation) = (Arc::clone(&ready), Arc::clone(&conversation));
        let (params, tools) = (Arc::clone(&params), tools.clone());
        move || {
            let (rendered, ids) = tokens::of_chat(&ready.text, &conversation, ready.window())
                .map_err(|refused| refused.into_error(ready.context))?;
            let prepared = prepare(&ready, &params, Some(&tools), Some(&rendered))?;
            Ok::<_, ApiError>((ids, prepared))
        }
    };
    let (prompt, prepared) = app.tokenizing.run(work).await??;
    let remember = Remember::new(&app, &ready, &params.caller, body, &conversation, &prompt);
    let plans = prepared.plans(&app, &ready, &params, &prompt, None, "messages")?;
    let mut answers = Answer::start_all(&app, &ready, seat, vec![plans], &params).await?;
    if let Some(first) = answers.first_mut() {
        first.remember = remember;
    }

    let frame = Frame {
        id: unique("chatcmpl"),
        created: unix_now(),
        model: params.model.clone(),
        include_usage: params.include_usage,
        logprobs: params.logprobs.is_some().then(|| Arc::clone(&ready.text)),
        prompt: params.token_ids.then_some(prompt),
    };
    if params.stream {
        return Ok(sse::response(chunks::chunks(answers, frame)));
    }
    whole::whole(answers, &frame).await.map(|whole| Json(whole).into_response())
}

/// What all objects of one answer share.
struct Frame {
    id: String,
    created: u64,
    model: String,
    /// Usage comes in a chunk of its own, and all others say that theirs is null.
    include_usage: bool,
    /// What spells the tokens that are told of; `None`: they are not.
    logprobs: Option<Arc<crate::text::TextModel>>,
    /// Ids of the prompt, where ids are to be told.
    prompt: Option<Vec<u32>>,
}

impl Frame {
    fn fill(&self, object: &str, choices: Value) -> Value {
        let Self { id, created, model, .. } = self;
        json!({ "id": id, "object": object, "created": created, "model": model, "choices": choices })
    }
}

/// Seconds since 1970.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
