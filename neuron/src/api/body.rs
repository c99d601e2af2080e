//! The request's body, bounded.

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};

use super::error::ApiError;

/// Bytes of a body; past it 413. Room for long documents, not for a flood.
const MAX_BODY: usize = 32 << 20;

/// The body as a JSON object.
pub(super) async fn json_object(body: Body) -> Result<Map<String, Value>, ApiError> {
    object(&bytes(body).await?)
}

/// The body as it came.
pub(super) async fn bytes(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(MAX_BODY)),
        Err(error) => {
            Err(ApiError::invalid("", "invalid_body", format!("the body could not be read: {error}")))
        }
    }
}

/// A body that was read, as a JSON object.
pub(super) fn object(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ApiError::invalid("", "invalid_json", "the body is JSON, but not an object")),
        Err(e) => Err(ApiError::invalid("", "invalid_json", format!("the body is not JSON: {e}"))),
    }
}
