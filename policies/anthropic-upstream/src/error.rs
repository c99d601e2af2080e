//! Anthropic's errors as native ones.

use serde_json::{Value, json};

/// The status that a type of error stands for; a stream's errors have no other.
pub(crate) fn status(kind: &str) -> u16 {
    match kind {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "timeout_error" => 504,
        "overloaded_error" => 503,
        _ => 500,
    }
}

/// `{"error": …}`; `error`: the object inside Anthropic's.
pub(crate) fn native(error: &Value, status: u16) -> Value {
    let message = error["message"].as_str().unwrap_or("the upstream refused");
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_exceeded",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    };
    let mut native = json!({"message": message, "type": kind, "param": null, "code": error["type"]});
    if status == 404 {
        native["code"] = "model_not_found".into();
    }
    if let Some((tokens, max)) = too_long(message) {
        native["code"] = "context_length_exceeded".into();
        native["prompt_len"] = tokens.into();
        native["max"] = max.into();
    }
    json!({"error": native})
}

/// "prompt is too long: 9 tokens > 8 maximum"
fn too_long(message: &str) -> Option<(u64, u64)> {
    let (_, counts) = message.split_once("prompt is too long: ")?;
    let (tokens, rest) = counts.split_once(" tokens > ")?;
    Some((tokens.parse().ok()?, rest.split_once(" maximum")?.0.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors() {
        let check = |kind: &str, message: &str, code: &str| {
            let native = native(&json!({"type": kind, "message": message}), status(kind));
            assert_eq!(
                (native["error"]["message"].as_str(), native["error"]["code"].as_str()),
                (Some(message), Some(code))
            );
            native
        };
        check("overloaded_error", "Overloaded", "overloaded_error");
        check("not_found_error", "model: x", "model_not_found");
        let long = check(
            "invalid_request_error",
            "prompt is too long: 9 tokens > 8 maximum",
            "context_length_exceeded",
        );
        assert_eq!((&long["error"]["prompt_len"], &long["error"]["max"]), (&json!(9), &json!(8)));
        check(
            "invalid_request_error",
            "prompt is too long: many tokens > 8 maximum",
            "invalid_request_error",
        );
    }
}
