//! Loading and unloading, and what a gateway asks about one model.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::Uri,
    response::{IntoResponse, Response},
};
use neuron_protocol::{Capabilities, Endpoint, LoadRequest, LoadResponse, UnloadRequest, UnloadResponse};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    App, body,
    error::{self, ApiError, LifecycleError},
    meta,
};

pub(super) async fn load(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<Json<LoadResponse>, LifecycleError> {
    let request: LoadRequest = typed(body).await?;
    app.registry.load(request).await.map_err(LifecycleError::Load)?;
    Ok(Json(LoadResponse { status: "loaded".to_owned() }))
}

pub(super) async fn unload(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<Json<UnloadResponse>, LifecycleError> {
    let request: UnloadRequest = typed(body).await?;
    match app.registry.unload(&request.model_id).await.map_err(LifecycleError::Load)? {
        true => Ok(Json(UnloadResponse { status: "unloaded".to_owned() })),
        false => Err(LifecycleError::NotLoaded(request.model_id)),
    }
}

/// `/models/{id}/endpoint` and `/models/{id}/capabilities`. The id holds slashes, encoded or not.
pub(super) async fn about(State(app): State<Arc<App>>, Path(path): Path<String>, uri: Uri) -> Response {
    let loaded = |id: &str| match app.registry.ready(id) {
        Ok(_) => Ok(()),
        Err(_) => Err(LifecycleError::NotLoaded(id.to_owned())),
    };
    if let Some(id) = path.strip_suffix("/endpoint") {
        return loaded(id).map(|()| Json(Endpoint { url: app.url.clone() })).into_response();
    }
    if let Some(id) = path.strip_suffix("/capabilities") {
        let capabilities = Capabilities { capabilities: meta::capabilities() };
        return loaded(id).map(|()| Json(capabilities)).into_response();
    }
    error::no_such_path(uri).await.into_response()
}

async fn typed<T: DeserializeOwned>(body: Body) -> Result<T, LifecycleError> {
    let object = body::json_object(body).await.map_err(LifecycleError::Body)?;
    serde_json::from_value(Value::Object(object))
        .map_err(|e| LifecycleError::Body(ApiError::invalid("", "invalid_body", e.to_string())))
}
