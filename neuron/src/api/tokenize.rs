//! `POST /tokenize`: tokens of a chat request, for gateways that count before they send.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use neuron_protocol::TokenCount;

use super::{
    App,
    body::json_object,
    chat::conversation,
    error::{ApiError, LifecycleError},
    fields::{Fields, missing},
    tokens,
};

/// Takes no weights: a model that is only cached is counted for as well.
pub(super) async fn tokenize(State(app): State<Arc<App>>, body: Body) -> Response {
    match count(&app, body).await {
        Ok(input_tokens) => Json(TokenCount { input_tokens }).into_response(),
        Err(response) => response,
    }
}

async fn count(app: &App, body: Body) -> Result<u64, Response> {
    let request = async {
        let object = json_object(body).await?;
        let fields = Fields(&object);
        let model = fields.text("model")?.ok_or_else(|| missing("model"))?.to_owned();
        Ok::<_, ApiError>((model, conversation(fields)?))
    };
    let (model, conversation) = request.await.map_err(IntoResponse::into_response)?;
    let text = app.registry.text(&model).await.map_err(|e| LifecycleError::Load(e).into_response())?;
    let text =
        text.ok_or_else(|| ApiError::not_loaded(&model, &app.registry.nearest(&model)).into_response())?;
    // A count is what is asked for, so no length is too much.
    let count = app.tokenizing.run(move || tokens::of_chat(&text, &conversation, usize::MAX)).await;
    let ids = count.and_then(|ids| ids.map_err(|refused| refused.into_error(u64::MAX)));
    ids.map(|ids| ids.len() as u64).map_err(IntoResponse::into_response)
}
