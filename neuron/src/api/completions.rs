//! `POST /v1/completions`: prompts as they are, without a template.

mod choice;
mod prompt;

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::HeaderMap;
use serde_json::{Value, json};

use super::{
    App,
    answer::{Answer, Part, Usage, prepare, together},
    body::json_object,
    chat::unix_now,
    error::{self, ApiError},
    fields::Fields,
    layers::unique,
    params::{Endpoint, Params},
    sse, tokens,
};
use crate::text::TextModel;
use choice::Choice;
use prompt::{Prompt, middle, prompts};

pub(super) async fn completions(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let object = json_object(body).await?;
    let fields = Fields(&object);
    let params = Arc::new(Params::parse(fields, Endpoint::Completions)?.from(&headers));
    let (echo, suffix) = (fields.flag("echo")?, fields.text("suffix")?.filter(|suffix| !suffix.is_empty()));
    let suffix = suffix.map(str::to_owned);
    if echo && suffix.is_some() {
        let text = "echo: what is filled in has no prompt in front that could be told";
        return Err(ApiError::invalid("echo", "invalid_value", text));
    }
    let ready = app.registry.ready(&params.model).map_err(|why| ApiError::not_ready(&params.model, why))?;
    error::refuse_encoder(&ready)?;
    params.check_ids(ready.text.tokenizer.vocab_size())?;
    let prompt_logprobs = params.logprobs.filter(|_| echo);
    if prompt_logprobs.is_some() && !ready.batched {
        let text = "logprobs: of a prompt they are not told by a model that runs one request at a time";
        return Err(ApiError::invalid("logprobs", "unsupported_parameter", text));
    }
    let prompts = prompts(fields, &ready.text.tokenizer, params.answers)?;
    let seat = Answer::admit(&app, &ready)?;
    let work = {
        let (ready, params) = (Arc::clone(&ready), Arc::clone(&params));
        move || {
            let ids = |prompt| match (prompt, &suffix) {
                (Prompt::Ids(ids), None) => Ok(ids),
                (Prompt::Ids(_), Some(_)) => Err(ApiError::invalid(
                    "suffix",
                    "invalid_value",
                    "suffix: it goes with a prompt that is text",
                )),
                (Prompt::Text(text), None) => tokens::of_text(&ready.text, &text, ready.window())
                    .map_err(|refused| refused.into_error(ready.context)),
                (Prompt::Text(text), Some(suffix)) => middle(&ready, &text, suffix),
            };
            let all =
                prompts.into_iter().map(|prompt| Ok((ids(prompt)?, prepare(&ready, &params, None, None)?)));
            all.collect::<Result<Vec<_>, ApiError>>()
        }
    };
    let mut plans = Vec::new();
    let mut choices = Vec::new();
    for (number, (ids, prepared)) in app.tokenizing.run(work).await??.into_iter().enumerate() {
        plans.push(prepared.plans(&app, &ready, &params, &ids, prompt_logprobs, "prompt")?);
        let ids: Arc<[u32]> = ids.into();
        choices.extend((0..params.answers).map(|_| Choice::new(number, echo, &params, Arc::clone(&ids))));
    }
    let answers = Answer::start_all(&app, &ready, seat, plans, &params).await?;
    let frame = Frame {
        id: unique("cmpl"),
        created: unix_now(),
        model: params.model.clone(),
        include_usage: params.include_usage,
        text: Arc::clone(&ready.text),
    };
    if params.stream {
        return Ok(sse::response(chunks(answers, choices, frame)));
    }
    whole(answers, choices, &frame).await.map(|whole| Json(whole).into_response())
}

/// What all objects of one answer share.
struct Frame {
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
    text: Arc<TextModel>,
}

impl Frame {
    fn fill(&self, choices: Value) -> Value {
        let Self { id, created, model, .. } = self;
        json!({ "id": id, "object": "text_completion", "created": created, "model": model, "choices": choices })
    }
}

async fn whole(answers: Vec<Answer>, mut choices: Vec<Choice>, frame: &Frame) -> Result<Value, ApiError> {
    let mut usages = Vec::new();
    let mut parts = together(answers);
    while let Some((index, part)) = parts.next().await {
        let Some(choice) = choices.get_mut(index) else { continue };
        let part = part?;
        if let Part::End(end) = &part {
            usages.push((choice.prompt_number(), end.usage));
        }
        choice.take(part);
    }
    let told =
        choices.iter_mut().enumerate().map(|(index, choice)| choice.told(index, &frame.text.tokenizer));
    let mut whole = frame.fill(told.collect());
    whole["usage"] = Usage::told(&usages);
    Ok(whole)
}

fn chunks(answers: Vec<Answer>, choices: Vec<Choice>, frame: Frame) -> impl Stream<Item = Bytes> + Send {
    let state = (together(answers), choices, frame, Vec::new());
    stream::unfold(Some(state), |state| async move {
        let (mut parts, mut choices, frame, mut usages) = state?;
        let (index, part) = parts.next().await?;
        let part = match part {
            Ok(part) => part,
            // The status has gone out: the error is an event, and the stream ends without [DONE].
            Err(error) => return Some((sse::event(&error.to_wire()), None)),
        };
        let choice = choices.get_mut(index)?;
        if let Part::End(end) = &part {
            usages.push((choice.prompt_number(), end.usage));
        }
        choice.take(part);
        let mut bytes = Vec::new();
        if choice.has_news() {
            let told = choice.told(index, &frame.text.tokenizer);
            let mut chunk = frame.fill(json!([told]));
            if frame.include_usage {
                chunk["usage"] = Value::Null;
            }
            bytes.extend_from_slice(&sse::event(&chunk));
        }
        if usages.len() < choices.len() {
            return Some((bytes.into(), Some((parts, choices, frame, usages))));
        }
        if frame.include_usage {
            let mut usage = frame.fill(json!([]));
            usage["usage"] = Usage::told(&usages);
            bytes.extend_from_slice(&sse::event(&usage));
        }
        bytes.extend_from_slice(&sse::done());
        Some((bytes.into(), None))
    })
}
