//! Everything that goes wrong, as HTTP: one place decides status, shape and headers.

use axum::{
    Json,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use neuron_protocol::{
    ApiError as Wire, ErrorBody, LoadError, LoadFailed, LoadFailure as WireLoadFailure, Problem, StillNeeded,
    UnloadRefused,
};

use serde_json::Value;

use crate::{
    device::{Failure, Unavailable},
    registry::{LoadFailure, NotReady, Ready},
};

/// Seconds after which a refused request may be worth another try.
const RETRY_SECS: u32 = 2;

/// An error in OpenAI's shape.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) body: ErrorBody,
}

impl ApiError {
    fn new(status: StatusCode, kind: &str, code: &str, message: String) -> Self {
        let body =
            ErrorBody { message, kind: kind.to_owned(), code: Some(code.to_owned()), ..ErrorBody::default() };
        Self { status, body }
    }

    /// 400: the request itself is wrong; `param` names the field.
    pub(super) fn invalid(param: &str, code: &str, message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message.into());
        error.body.param = (!param.is_empty()).then(|| param.to_owned());
        error
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("the body is longer than {} MiB", limit >> 20);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "request_too_large", message)
    }

    /// 413: `inputs` texts, where `limit` are taken.
    pub(super) fn too_many(inputs: usize, limit: usize) -> Self {
        let message =
            format!("input: {inputs} texts, where one request may have {limit}: send several requests");
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        let mut error = Self::new(status, "invalid_request_error", "request_too_large", message);
        error.body.param = Some("input".to_owned());
        error
    }

    pub(super) fn unauthorized() -> Self {
        let message = "a valid bearer token is needed: Authorization: Bearer …".to_owned();
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", "invalid_api_key", message)
    }

    pub(super) fn forbidden(token: &str, scope: &str) -> Self {
        let message = format!("the token {token} does not have the scope {scope}, which this call needs");
        Self::new(StatusCode::FORBIDDEN, "invalid_request_error", "scope_missing", message)
    }

    /// 400: the prompt `has` (or "has at least") `prompt` tokens, where `max` fit.
    pub(super) fn context_length(param: &str, has: &str, prompt: u64, max: u64) -> Self {
        let message = format!(
            "the prompt {has} {prompt} tokens; with room for an answer at most {} fit into the window of {max}",
            max - 1
        );
        let mut error = Self::invalid(param, "context_length_exceeded", message);
        (error.body.prompt_len, error.body.max) = (Some(prompt), Some(max));
        error
    }

    pub(super) fn overloaded(message: &str) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "rate_limit_exceeded", "overloaded", message.to_owned())
    }

    pub(super) fn not_loaded(model: &str, nearest: &[String]) -> Self {
        let hint = match nearest {
            [] => "no model is loaded".to_owned(),
            ids => format!("loaded are: {}", ids.join(", ")),
        };
        Self::no_model(format!("the model {model:?} is not loaded here; {hint}"))
    }

    fn no_model(message: String) -> Self {
        let mut error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found", message);
        error.body.param = Some("model".to_owned());
        error
    }

    pub(super) fn not_ready(model: &str, why: NotReady) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let wait = |code, what: &str| Self::new(status, "server_error", code, format!("{model} {what}"));
        match why {
            NotReady::Unknown(nearest) => Self::not_loaded(model, &nearest),
            NotReady::Loading => wait("model_loading", "is being loaded"),
            NotReady::Broken(fault) => {
                wait("model_broken", &format!("broke down and has to be loaded again ({fault})"))
            }
        }
    }

    pub(super) fn failure(model: &str, failure: &Failure) -> Self {
        match failure {
            Failure::QueueTimeout => Self::overloaded(&failure.to_string()),
            Failure::NotLoaded => Self::no_model(format!("{model} was unloaded before its turn came")),
            Failure::DeviceLost(_) => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Self::new(status, "server_error", "device_lost", failure.to_string())
            }
            Failure::Cut => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Self::new(status, "server_error", "model_unloaded", failure.to_string())
            }
            Failure::Grammar(_) => Self::invalid("", "grammar_failed", failure.to_string()),
            Failure::Stalled => {
                let status = StatusCode::REQUEST_TIMEOUT;
                Self::new(status, "invalid_request_error", "client_stalled", failure.to_string())
            }
            Failure::Model(_) | Failure::Fault(_) => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Self::new(status, "server_error", "engine_error", failure.to_string())
            }
        }
    }

    /// The daemon is on its way out.
    pub(super) fn stopping() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "server_error", "shutting_down", "the daemon is stopping".to_owned())
    }

    /// As it goes over the wire, also in the middle of a stream.
    pub(super) fn to_wire(&self) -> Wire {
        Wire { error: self.body.clone() }
    }
}

impl From<Unavailable> for ApiError {
    fn from(unavailable: Unavailable) -> Self {
        match unavailable {
            Unavailable::Busy => Self::overloaded(&unavailable.to_string()),
            Unavailable::Gone => Self::stopping(),
            Unavailable::Lost => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Self::new(status, "server_error", "device_lost", unavailable.to_string())
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.to_wire())).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        with_retry_after(response)
    }
}

/// An error of the lifecycle calls, which have shapes of their own.
#[derive(Debug)]
pub(super) enum LifecycleError {
    Load(LoadFailure),
    /// 404.
    NotLoaded(String),
    /// 409.
    StillNeeded(StillNeeded),
    /// The body could not be read or is not what it should be.
    Body(ApiError),
}

impl IntoResponse for LifecycleError {
    fn into_response(self) -> Response {
        let problem =
            |status: StatusCode, error: String| (status, Json(Problem { error, code: None })).into_response();
        let response = match self {
            Self::NotLoaded(model) => problem(StatusCode::NOT_FOUND, format!("{model} is not loaded here")),
            Self::StillNeeded(cause) => {
                (StatusCode::CONFLICT, Json(UnloadRefused::from(cause))).into_response()
            }
            Self::Body(error) => problem(error.status, error.body.message),
            Self::Load(failure) => {
                let passes_in = failure.passes_in();
                let (status, body) = load_failure(failure);
                let mut response = (status, Json(body)).into_response();
                if let Some(seconds) = passes_in {
                    response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
                }
                response
            }
        };
        with_retry_after(response)
    }
}

/// A failed load as an answer: status and body.
fn load_failure(failure: LoadFailure) -> (StatusCode, Value) {
    let (status, body) = match failure {
        LoadFailure::Request(error) => {
            (StatusCode::BAD_REQUEST, serde_json::to_value(Problem { error, code: None }))
        }
        LoadFailure::Device(error) => {
            let code = Some("device_unavailable".to_owned());
            (StatusCode::SERVICE_UNAVAILABLE, serde_json::to_value(Problem { error, code }))
        }
        LoadFailure::Engine(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, serde_json::to_value(Problem { error, code: None }))
        }
        LoadFailure::Preflight(error) => {
            let status = match *error {
                // Retryable once something else has gone, unlike everything else that preflight finds.
                LoadError::InsufficientVram { .. } => StatusCode::INSUFFICIENT_STORAGE,
                _ => StatusCode::UNPROCESSABLE_ENTITY,
            };
            (status, serde_json::to_value(WireLoadFailure::from(*error)))
        }
    };
    // Texts and numbers: it cannot fail.
    (status, body.unwrap_or_default())
}

/// As `/watch` tells it, for a load that nobody waited for.
pub(super) fn load_failed(failure: LoadFailure) -> LoadFailed {
    let (status, body) = load_failure(failure);
    LoadFailed { status: status.as_u16(), body: body.to_string() }
}

/// Every answer after which the same request may succeed says when.
fn with_retry_after(mut response: Response) -> Response {
    let retryable = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::INSUFFICIENT_STORAGE];
    if retryable.contains(&response.status()) && !response.headers().contains_key(header::RETRY_AFTER) {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_SECS.into());
    }
    response
}

/// 400 where the model writes no text.
pub(super) fn refuse_encoder(ready: &Ready) -> Result<(), ApiError> {
    if !ready.encodes {
        return Ok(());
    }
    let text = format!("{} makes embeddings and writes no text: ask for it at /v1/embeddings", ready.id);
    Err(ApiError::invalid("model", "generation_unsupported", text))
}

pub(super) async fn no_such_path(uri: Uri) -> ApiError {
    let message = format!("there is no {} here", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", "not_found", message)
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", message)
}
