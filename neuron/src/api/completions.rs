//! `POST /v1/completions`: a prompt as it is, without a template; and what is said to `/v1/embeddings`.

use std::sync::Arc;

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
    body::json_object,
    chat::unix_now,
    error::ApiError,
    fields::{Fields, missing, wrong_type},
    generate::{Answer, End, Part},
    layers::unique,
    params::Params,
    sse, tokens,
};
use crate::tokenizer::Tokenizer;

pub(super) async fn completions(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let object = json_object(body).await?;
    let fields = Fields(&object);
    let params = Params::parse(fields)?.from(&headers);
    for name in ["echo", "suffix"] {
        if fields.get(name).is_some_and(|value| !matches!(value, Value::Bool(false)) && value != "") {
            let text = format!("{name} is not supported");
            return Err(ApiError::invalid(name, "unsupported_parameter", text));
        }
    }
    let ready = app.registry.ready(&params.model).map_err(|why| ApiError::not_ready(&params.model, why))?;
    let prompt = prompt(fields, &ready.text.tokenizer)?;
    let seat = Answer::admit(&app, &ready)?;
    let prompt = match prompt {
        Prompt::Ids(ids) => ids,
        Prompt::Text(prompt) => {
            let (text, window) = (Arc::clone(&ready.text), ready.window());
            let ids = app.tokenizing.run(move || tokens::of_text(&text, &prompt, window)).await?;
            ids.map_err(|refused| refused.into_error(ready.context))?
        }
    };
    let answer = Answer::start(&app, ready, seat, prompt, "prompt", &params).await?;

    let (id, created) = (unique("cmpl"), unix_now());
    let model = params.model;
    let frame = move |choices: Value| json!({ "id": id, "object": "text_completion", "created": created, "model": model, "choices": choices });
    if params.stream {
        return Ok(sse::response(stream(answer, frame, params.include_usage)));
    }
    let (text, end) = answer.collect().await?;
    let mut whole = frame(json!([choice(&text, Some(&end))]));
    whole["usage"] = end.usage;
    Ok(Json(whole).into_response())
}

fn choice(text: &str, end: Option<&End>) -> Value {
    json!({
        "index": 0, "text": text, "logprobs": null,
        "finish_reason": end.map(|end| end.reason),
        "stop_reason": end.and_then(|end| end.stop.as_deref()),
    })
}

fn stream(
    answer: Answer,
    frame: impl Fn(Value) -> Value + Send + 'static,
    include_usage: bool,
) -> impl futures_util::Stream<Item = bytes::Bytes> + Send {
    futures_util::stream::unfold(Some((answer, frame)), move |state| async move {
        let (mut answer, frame) = state?;
        match answer.next().await? {
            Ok(Part::Text(text)) => {
                Some((sse::event(&frame(json!([choice(&text, None)]))), Some((answer, frame))))
            }
            Ok(Part::End(end)) => {
                let mut bytes = sse::event(&frame(json!([choice("", Some(&end))]))).to_vec();
                if include_usage {
                    let mut usage = frame(json!([]));
                    usage["usage"] = end.usage;
                    bytes.extend_from_slice(&sse::event(&usage));
                }
                bytes.extend_from_slice(&sse::done());
                Some((bytes.into(), None))
            }
            Err(error) => Some((sse::event(&error.to_wire()), None)),
        }
    })
}

enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

/// Text, or token ids; either alone or as an array of one.
fn prompt(fields: Fields<'_>, tokenizer: &Tokenizer) -> Result<Prompt, ApiError> {
    let expected = "a string or an array of token ids";
    let prompt = fields.get("prompt").ok_or_else(|| missing("prompt"))?;
    let only = match prompt {
        Value::Array(items) if items.first().is_some_and(|item| !item.is_number()) => {
            match items.as_slice() {
                [only] => only,
                _ => {
                    let text = "prompt: one prompt a request is taken here";
                    return Err(ApiError::invalid("prompt", "unsupported_parameter", text));
                }
            }
        }
        other => other,
    };
    match only {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(ids) => {
            let known = |id: &Value| {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                id.filter(|id| (*id as usize) < tokenizer.vocab_size())
            };
            let ids = ids.iter().map(|id| known(id).ok_or_else(|| wrong_type("prompt", expected, id)));
            Ok(Prompt::Ids(ids.collect::<Result<_, _>>()?))
        }
        other => Err(wrong_type("prompt", expected, other)),
    }
}

/// No model here embeds: said as a client's SDK understands it.
pub(super) async fn embeddings(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    let object = json_object(body).await?;
    let model = Fields(&object).text("model")?.ok_or_else(|| missing("model"))?;
    app.registry.ready(model).map_err(|why| ApiError::not_ready(model, why))?;
    let text = format!("{model} writes text and makes no embeddings");
    Err(ApiError::invalid("model", "embeddings_unsupported", text))
}
