//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::{body::Body, extract::State, response::Response};

use super::{
    App,
    body::json_object,
    error::ApiError,
    fields::{Fields, missing},
};

/// No model here embeds: said as a client's SDK understands it.
pub(super) async fn embeddings(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    let object = json_object(body).await?;
    let model = Fields(&object).text("model")?.ok_or_else(|| missing("model"))?;
    app.registry.ready(model).map_err(|why| ApiError::not_ready(model, why))?;
    let text = format!("{model} writes text and makes no embeddings");
    Err(ApiError::invalid("model", "embeddings_unsupported", text))
}
