//! What a client is told when its request cannot be served: one type, mapped to HTTP in one place.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

/// A refusal, OpenAI-shaped on the wire; dialects translate it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{status}: {message}")]
pub struct Refusal {
    pub status: StatusCode,
    pub code: String,
    pub message: String,
    /// The field of the request that is wrong.
    pub param: Option<&'static str>,
    pub retry_after: Option<Duration>,
    /// A node's own error body, passed on as it came.
    pub verbatim: Option<Bytes>,
}

/// SDKs wait no longer than this, whatever they are told, and try again at once instead.
pub const LONGEST_RETRY: u64 = 60;

impl Refusal {
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let (code, message) = (code.to_owned(), message.into());
        Self { status, code, message, param: None, retry_after: None, verbatim: None }
    }

    /// 400: the client's request is wrong.
    pub fn invalid(param: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { param, ..Self::new(StatusCode::BAD_REQUEST, "invalid_request", message) }
    }

    /// 503: another try may succeed.
    pub fn unavailable(code: &str, message: impl Into<String>, retry_after: Duration) -> Self {
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        Self { retry_after: Some(retry_after), ..refusal }
    }

    /// Seconds for `retry-after`, where the answer is worth another try.
    pub fn retry_seconds(&self) -> Option<u64> {
        self.retry_after.map(|after| after.as_secs().max(1))
    }

    /// Whether a client should try again by itself; `None` where its own judgement is good.
    pub fn should_retry(&self) -> Option<bool> {
        match self.retry_seconds() {
            Some(seconds) => Some(seconds <= LONGEST_RETRY),
            None => (self.status == StatusCode::TOO_MANY_REQUESTS).then_some(false),
        }
    }

    /// `{"error": {message, type, param, code}}`
    pub fn body(&self) -> Bytes {
        match &self.verbatim {
            Some(body) => body.clone(),
            None => self.json().to_string().into(),
        }
    }

    /// As an event of a native stream.
    pub fn event(&self) -> Vec<u8> {
        // Back through a parser, so that a node's pretty-printed error stays one line.
        let parsed = self.verbatim.as_ref().and_then(|body| serde_json::from_slice::<Value>(body).ok());
        let mut error = parsed.filter(|v| v["error"].is_object()).unwrap_or_else(|| self.json());
        error["error"]["status"] = self.status.as_u16().into();
        format!("data: {error}\n\n").into_bytes()
    }

    fn json(&self) -> Value {
        let kind = match self.status.as_u16() {
            // OpenAI's own word in both places, and the one that its clients look for.
            429 if self.code == "insufficient_quota" => "insufficient_quota",
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_exceeded",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}
