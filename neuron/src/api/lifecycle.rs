//! Loading and unloading, and what a gateway asks about one model.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use neuron_protocol::{
    Capabilities, Defragged, Endpoint, LoadRequest, LoadResponse, Preflight, UnloadRequest, UnloadResponse,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    App, body,
    error::{self, ApiError, LifecycleError},
    meta,
};
use crate::{memory, registry::UnloadFailure};

pub(super) async fn load(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<(StatusCode, Json<LoadResponse>), LifecycleError> {
    let request: LoadRequest = typed(body).await?;
    let (code, status) = match app.registry.load(request).await.map_err(LifecycleError::Load)? {
        true => (StatusCode::OK, "loaded"),
        false => (StatusCode::ACCEPTED, "loading"),
    };
    Ok((code, Json(LoadResponse { status: status.to_owned() })))
}

/// What a load would take, or why it cannot be.
pub(super) async fn preflight(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<Json<Preflight>, LifecycleError> {
    let request: LoadRequest = typed(body).await?;
    app.registry.preflight(&request).await.map(Json).map_err(LifecycleError::Load)
}

pub(super) async fn unload(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<Json<UnloadResponse>, LifecycleError> {
    let request: UnloadRequest = typed(body).await?;
    match app.registry.unload(&request).await {
        Ok(true) => Ok(Json(UnloadResponse { status: "unloaded".to_owned() })),
        Ok(false) => Err(LifecycleError::NotLoaded(request.model_id)),
        Err(UnloadFailure::StillNeeded(cause)) => Err(LifecycleError::StillNeeded(cause)),
        Err(UnloadFailure::Failed(failure)) => Err(LifecycleError::Load(failure)),
    }
}

/// Weights to the host's memory; conditions as those of an unload.
pub(super) async fn park(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<Json<UnloadResponse>, LifecycleError> {
    let request: UnloadRequest = typed(body).await?;
    match app.registry.park(&request).await {
        Ok(true) => Ok(Json(UnloadResponse { status: "parked".to_owned() })),
        Ok(false) => Err(LifecycleError::NotLoaded(request.model_id)),
        Err(UnloadFailure::StillNeeded(cause)) => Err(LifecycleError::StillNeeded(cause)),
        Err(UnloadFailure::Failed(failure)) => Err(LifecycleError::Load(failure)),
    }
}

/// Parked weights back to the device.
pub(super) async fn wake(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<Json<LoadResponse>, LifecycleError> {
    let request: UnloadRequest = typed(body).await?;
    match app.registry.wake(&request.model_id).await.map_err(LifecycleError::Load)? {
        true => Ok(Json(LoadResponse { status: "loaded".to_owned() })),
        false => Err(LifecycleError::NotLoaded(request.model_id)),
    }
}

/// Gives all memory back that holds nothing, and says what the device shows then.
pub(super) async fn defrag(State(app): State<Arc<App>>) -> Json<Defragged> {
    let free = || (0..app.registry.devices.len()).map(|device| app.registry.memory(device).free_mb).sum();
    let free_before_mb = free();
    // It walks the whole heap.
    let gave = tokio::task::spawn_blocking(memory::give_back).await;
    if let Err(error) = gave {
        tracing::error!(%error, "memory could not be given back");
    }
    Json(Defragged { free_before_mb, free_after_mb: free() })
}

/// `/models/{id}/endpoint` and `/models/{id}/capabilities`. The id holds slashes, encoded or not.
pub(super) async fn about(State(app): State<Arc<App>>, Path(path): Path<String>, uri: Uri) -> Response {
    let loaded = |id: &str| app.registry.ready(id).map_err(|_| LifecycleError::NotLoaded(id.to_owned()));
    if let Some(id) = path.strip_suffix("/endpoint") {
        return loaded(id).map(|_| Json(Endpoint { url: app.url.clone() })).into_response();
    }
    if let Some(id) = path.strip_suffix("/capabilities") {
        let told = |ready: Arc<crate::registry::Ready>| {
            Json(Capabilities { capabilities: meta::capabilities(&ready) })
        };
        return loaded(id).map(told).into_response();
    }
    error::no_such_path(uri).await.into_response()
}

async fn typed<T: DeserializeOwned>(body: Body) -> Result<T, LifecycleError> {
    let object = body::json_object(body).await.map_err(LifecycleError::Body)?;
    serde_json::from_value(Value::Object(object))
        .map_err(|e| LifecycleError::Body(ApiError::invalid("", "invalid_body", e.to_string())))
}
