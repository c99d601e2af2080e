//! Native errors as a failed response has them. Refusals with a status are OpenAI's already.

use policy_chat::error::NativeError;
use serde_json::{Value, json};

/// `error` of a response.
pub(crate) fn of(native: &NativeError) -> Value {
    let code = match (native.status, native.code.as_str()) {
        // Coding agents look for these to compact their history, to wait, or to give up.
        (_, code @ ("context_length_exceeded" | "insufficient_quota" | "rate_limit_exceeded")) => code,
        (429, _) => "rate_limit_exceeded",
        (503 | 529, _) => "server_is_overloaded",
        (400..=499, _) => "invalid_prompt",
        _ => "server_error",
    };
    json!({"code": code, "message": native.message})
}
