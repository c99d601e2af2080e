//! Native errors, read for what dialects say of them.

use serde_json::Value;

/// `{"error": {message, type, param, code, …}}`, from a body or a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NativeError {
    /// HTTP status; 500 where a stream's error names none.
    pub status: u16,
    pub message: String,
    pub kind: String,
    pub code: String,
    pub param: Option<String>,
    /// Tokens of a prompt that is too long, and the most that fits.
    pub too_long: Option<(u64, u64)>,
}

impl NativeError {
    /// Of an answer with that status; what is not JSON is passed on as its message.
    pub fn of_body(status: u16, body: &[u8]) -> Self {
        let native: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let error = &native["error"];
        let mut read = Self::read(error);
        read.status = status;
        if read.message.is_empty() {
            read.message = String::from_utf8_lossy(body).trim().to_owned();
        }
        read
    }

    /// Of a stream's error object; `otherwise` where it says nothing.
    pub fn of_event(error: &str, otherwise: &str) -> Self {
        let error: Value = serde_json::from_str(error).unwrap_or(Value::Null);
        let mut read = Self::read(&error);
        if read.message.is_empty() {
            otherwise.clone_into(&mut read.message);
        }
        read
    }

    /// A stream that broke off.
    pub fn broken() -> Self {
        let message = "the model's stream broke off before its end; try again";
        Self { status: 502, message: message.into(), code: "upstream_broken".into(), ..Self::default() }
    }

    /// The model's answer could not be read.
    pub fn unreadable() -> Self {
        let message = "the model's stream could not be read; try again";
        Self { message: message.into(), ..Self::broken() }
    }

    fn read(error: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let of_type = || match (error["code"].as_str(), error["type"].as_str()) {
            (Some("overloaded"), _) => Some(503),
            (_, Some("rate_limit_exceeded" | "rate_limit_error")) => Some(429),
            (Some("context_length_exceeded"), _) | (_, Some("invalid_request_error")) => Some(400),
            _ => None,
        };
        let status = error["status"].as_u64().or(error["code"].as_u64()).filter(|s| (400..600).contains(s));
        let too_long = error["prompt_len"].as_u64().zip(error["max"].as_u64());
        Self {
            status: status.or_else(of_type).unwrap_or(500) as u16,
            message: error["message"].as_str().or(error.as_str()).unwrap_or_default().to_owned(),
            kind: text(&error["type"]),
            code: text(&error["code"]),
            param: error["param"].as_str().map(str::to_owned),
            too_long: too_long.filter(|_| error["code"] == "context_length_exceeded"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_of_events() {
        let check =
            |event: &str, status| assert_eq!(NativeError::of_event(event, "x").status, status, "{event}");
        check(r#"{"status":503,"code":"y"}"#, 503);
        check(r#"{"code":429}"#, 429);
        check(r#"{"type":"rate_limit_exceeded"}"#, 429);
        check(r#"{"code":"overloaded"}"#, 503);
        check(r#"{"status":7}"#, 500);
        check("null", 500);
        check("{", 500);
    }

    #[test]
    fn bodies() {
        let error = NativeError::of_body(400, br#"{"error":{"message":"m","code":"context_length_exceeded","prompt_len":9,"max":8,"param":"p"}}"#);
        assert_eq!((error.status, error.too_long, error.param.as_deref()), (400, Some((9, 8)), Some("p")));
        assert_eq!(NativeError::of_body(502, b" a page ").message, "a page");
        assert_eq!(NativeError::of_body(500, br#"{"error":"words"}"#).message, "words");
    }
}
