//! What happens around every handler.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::{App, error::ApiError};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A longer id is replaced: it would be written into every log line.
const MAX_REQUEST_ID: usize = 128;

/// Gives the request an id, the client's where it sent one, and the answer the same.
pub(super) async fn name_request(mut request: Request, next: Next) -> Response {
    let sent = request.headers().get(REQUEST_ID).filter(|id| id.len() <= MAX_REQUEST_ID && !id.is_empty());
    let id = sent.cloned().or_else(|| HeaderValue::from_str(&unique("req")).ok());
    let Some(id) = id else { return next.run(request).await };
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Refuses whoever does not have the token, where there is one.
pub(super) async fn authenticate(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if let Some(expected) = &app.token {
        let sent = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let sent = sent.and_then(|value| value.split_once(' '));
        let token = sent.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token);
        let matches = token.is_some_and(|token| Sha256::digest(token.trim())[..] == expected[..]);
        if !matches {
            return ApiError::unauthorized().into_response();
        }
    }
    next.run(request).await
}

/// An id that no other answer of this daemon has, nor likely one of another's.
pub(super) fn unique(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{:x}{:04x}{:04x}", now, std::process::id() & 0xffff, count & 0xffff)
}
