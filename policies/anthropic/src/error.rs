//! OpenAI's errors as Anthropic's.

use serde_json::{Value, json};

/// The error type that Anthropic's SDKs map to their exception classes.
pub fn kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        504 => "timeout_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// `body` is a native error; what is not JSON is passed on as its message.
pub fn from_native(status: u16, request_id: &str, model: &str, body: &[u8]) -> Value {
    let native: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let error = &native["error"];
    let said = match error["message"].as_str().or(error.as_str()) {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(body).trim().to_owned(),
    };
    let message = match (error["code"].as_str(), error["prompt_len"].as_u64(), error["max"].as_u64()) {
        // Coding agents look for these very words to compact their history.
        (Some("context_length_exceeded"), Some(len), Some(max)) => {
            format!("prompt is too long: {len} tokens > {max} maximum")
        }
        (Some("model_not_found"), ..) if !model.is_empty() => format!("model: {model} ({said})"),
        _ => said,
    };
    envelope(kind(status), &message, request_id)
}

fn envelope(kind: &str, message: &str, request_id: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id})
}

/// The `error` event of a stream that cannot go on; `native` is an OpenAI error object or null.
pub fn event(native: &Value, otherwise: &str) -> Value {
    let message = native["message"].as_str().or(native.as_str()).unwrap_or(otherwise);
    let kind = match native["code"].as_u64().or(native["status"].as_u64()) {
        Some(status @ 400..=599) => kind(status as u16),
        _ if native["code"] == "overloaded" || native["type"] == "rate_limit_exceeded" => "overloaded_error",
        _ => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}})
}
