//! Native errors as Anthropic's.

use policy_chat::error::NativeError;
use serde_json::{Value, json};

/// The type that goes with a status.
fn kind(status: u16) -> &'static str {
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

/// The body of a refusal. `model`: what the client asked for.
pub(crate) fn body(native: &NativeError, model: &str, request_id: &str) -> Value {
    let mut body = event(native, model);
    body["request_id"] = request_id.into();
    body
}

/// The `error` event of a stream that cannot go on.
pub(crate) fn event(native: &NativeError, model: &str) -> Value {
    let said = &native.message;
    let message = match (native.too_long, native.code.as_str()) {
        // Coding agents look for these very words to compact their history.
        (Some((tokens, max)), _) => format!("prompt is too long: {tokens} tokens > {max} maximum"),
        (_, "model_not_found") if !model.is_empty() => format!("model: {model} ({said})"),
        _ => said.clone(),
    };
    json!({"type": "error", "error": {"type": kind(native.status), "message": message}})
}
