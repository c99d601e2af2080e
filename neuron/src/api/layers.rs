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

use super::{App, error::ApiError, params::CALLER};
use crate::config::Scope;

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

/// Refuses whoever has no token, where there are some, or one that is for something else. Only a gateway says for whom
/// it asks; whoever else has a token asks for itself.
pub(super) async fn authenticate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    if app.tokens.is_empty() {
        return next.run(request).await;
    }
    let sent = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let sent = sent.and_then(|value| value.split_once(' '));
    let sent = sent.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token);
    let digest = sent.map(|token| Sha256::digest(token.trim()));
    let known = digest.and_then(|digest| app.tokens.iter().find(|(known, _)| digest[..] == known[..]));
    let Some((_, token)) = known else { return ApiError::unauthorized().into_response() };
    if let Some(scope) = needed(request.uri().path())
        && !token.scopes.contains(&scope)
    {
        return ApiError::forbidden(&token.name, scope.name()).into_response();
    }
    if !token.is_gateways() {
        match HeaderValue::from_str(&format!("token:{}", token.name)) {
            Ok(itself) => request.headers_mut().insert(CALLER, itself),
            Err(_) => request.headers_mut().remove(CALLER),
        };
    }
    next.run(request).await
}

/// What a path is part of; `None`: whoever has a token may ask.
fn needed(path: &str) -> Option<Scope> {
    match path {
        "/" | "/health" | "/version" => None,
        "/tokenize" | "/detokenize" => Some(Scope::Infer),
        "/defrag" | "/models/load" | "/models/preflight" | "/models/unload" | "/models/park"
        | "/models/wake" => Some(Scope::Lifecycle),
        path if path.starts_with("/v1/") => Some(Scope::Infer),
        path if path.starts_with(super::HUB) => Some(Scope::Files),
        _ => Some(Scope::Registry),
    }
}

/// An id that no other answer of this daemon has, nor likely one of another's.
pub(super) fn unique(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{:x}{:04x}{:04x}", now, std::process::id() & 0xffff, count & 0xffff)
}
