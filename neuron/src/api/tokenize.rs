//! `POST /tokenize` and `/detokenize`: tokens of a chat request or a text, and back. Gateways count before they send.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{
    App,
    body::json_object,
    chat::conversation,
    error::{ApiError, LifecycleError},
    fields::{Fields, missing, wrong_type},
    tokens,
};
use crate::text::TextModel;

/// Takes no weights: a model that is only cached is counted for as well.
pub(super) async fn tokenize(State(app): State<Arc<App>>, body: Body) -> Response {
    let work = async {
        let object = object(body).await?;
        let text = named(&app, &object).await?;
        let (ids, tell) = ids(&app, text, Fields(&object)).await.map_err(IntoResponse::into_response)?;
        let mut told = json!({ "input_tokens": ids.len(), "count": ids.len() });
        if tell {
            told["tokens"] = ids.into();
        }
        Ok::<_, Response>(Json(told).into_response())
    };
    work.await.unwrap_or_else(|refused| refused)
}

/// The other way round; takes no weights either.
pub(super) async fn detokenize(State(app): State<Arc<App>>, body: Body) -> Response {
    let work = async {
        let object = object(body).await?;
        let text = named(&app, &object).await?;
        let ids = known(Fields(&object), &text).map_err(IntoResponse::into_response)?;
        Ok::<_, Response>(Json(json!({ "prompt": text.tokenizer.decode(&ids) })).into_response())
    };
    work.await.unwrap_or_else(|refused| refused)
}

async fn object(body: Body) -> Result<Map<String, Value>, Response> {
    json_object(body).await.map_err(IntoResponse::into_response)
}

/// The text side of the model that the request names.
async fn named(app: &App, object: &Map<String, Value>) -> Result<Arc<TextModel>, Response> {
    let model = Fields(object).text("model").and_then(|model| model.ok_or_else(|| missing("model")));
    let model = model.map_err(IntoResponse::into_response)?;
    let text = app.registry.text(model).await.map_err(|e| LifecycleError::Load(e).into_response())?;
    text.ok_or_else(|| ApiError::not_loaded(model, &app.registry.nearest(model)).into_response())
}

/// The ids, and whether they are to be told: of a conversation mostly their number is all that is wanted.
async fn ids(app: &App, text: Arc<TextModel>, fields: Fields<'_>) -> Result<(Vec<u32>, bool), ApiError> {
    let tell = fields.flag("return_tokens")?;
    if let Some(prompt) = fields.text("prompt")?.or(fields.text("content")?).map(str::to_owned) {
        // As for a prompt of a completion, the start token is put in front unless that is not wanted.
        let plain = fields.get("add_special_tokens").is_some() && !fields.flag("add_special_tokens")?;
        let work = move || match plain {
            true => text.tokenizer.encode(&prompt),
            false => text.tokenizer.encode_prompt(&prompt),
        };
        return Ok((app.tokenizing.run(work).await?, true));
    }
    let conversation = conversation(fields)?;
    // A count is what is asked for, so no length is too much.
    let ids = app.tokenizing.run(move || tokens::of_chat(&text, &conversation, usize::MAX)).await?;
    Ok((ids.map_err(|refused| refused.into_error(u64::MAX))?.1, tell))
}

fn known(fields: Fields<'_>, text: &TextModel) -> Result<Vec<u32>, ApiError> {
    let given = fields.array("tokens")?.ok_or_else(|| missing("tokens"))?;
    let known = |id: &Value| {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        id.filter(|id| (*id as usize) < text.tokenizer.vocab_size())
    };
    let ids =
        given.iter().map(|id| known(id).ok_or_else(|| wrong_type("tokens", "an array of token ids", id)));
    ids.collect()
}
