//! The judgement, free of WebAssembly: `cargo test -p policy-NAME` covers it.
//!
//! A dialect to start from: `POST /NAME/complete {"model", "prompt", "stream"?}` becomes a chat
//! completion, and the answer `{"text"}`; a stream is one `data:` event for each piece of text.

use serde_json::{Value, json};

/// Method and path template; the index is what sessions are made with.
pub const ENDPOINTS: [(&str, &str); 1] = [("POST", "/NAME/complete")];

/// A native request: path and body. An error is a sentence for the client.
pub fn request(body: &[u8]) -> Result<(&'static str, Vec<u8>), String> {
    let body: Value = serde_json::from_slice(body).map_err(|e| format!("the body is not JSON: {e}"))?;
    let field = |name: &str| body[name].as_str().ok_or(format!("{name}: a string is required"));
    let native = json!({
        "model": field("model")?,
        "messages": [{"role": "user", "content": field("prompt")?}],
        "stream": body["stream"] == true,
    });
    Ok(("/v1/chat/completions", native.to_string().into_bytes()))
}

/// A whole native answer in this dialect; the host's refusals, which are OpenAI's errors, come here too.
pub fn response(status: u16, body: &[u8]) -> Result<Vec<u8>, String> {
    let native: Value =
        serde_json::from_slice(body).map_err(|e| format!("the native answer is not JSON: {e}"))?;
    let answer = if status >= 400 {
        json!({"error": native["error"]["message"]})
    } else {
        json!({"text": native["choices"][0]["message"]["content"]})
    };
    Ok(answer.to_string().into_bytes())
}

/// Whole native events in, this dialect's events out.
pub fn events(sse: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in sse.split(|b| *b == b'\n') {
        let Some(data) = line.strip_prefix(b"data: ") else { continue };
        let Ok(event) = serde_json::from_slice::<Value>(data) else { continue };
        if let Some(error) = event.get("error") {
            out.extend_from_slice(format!("data: {}\n\n", json!({"error": error["message"]})).as_bytes());
        }
        if let Some(text) = event["choices"][0]["delta"]["content"].as_str() {
            out.extend_from_slice(format!("data: {}\n\n", json!({"text": text})).as_bytes());
        }
    }
    out
}

/// The end of a stream: an error event where it broke off.
pub fn finish(clean: bool) -> Vec<u8> {
    let last = if clean { "data: [DONE]\n\n" } else { "data: {\"error\":\"the stream broke off\"}\n\n" };
    last.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_and_its_answers() {
        let (path, native) = request(br#"{"model":"m","prompt":"hi","stream":true}"#).unwrap();
        assert_eq!(path, "/v1/chat/completions");
        let native: Value = serde_json::from_slice(&native).unwrap();
        assert_eq!(native["messages"][0]["content"], "hi");
        let answer = br#"{"choices":[{"message":{"content":"yo"}}]}"#;
        assert_eq!(response(200, answer).unwrap(), br#"{"text":"yo"}"#);
        assert_eq!(response(404, br#"{"error":{"message":"no"}}"#).unwrap(), br#"{"error":"no"}"#);
        let sse = b"data: {\"choices\":[{\"delta\":{\"content\":\"yo\"}}]}\n\ndata: [DONE]\n\n";
        assert_eq!(events(sse), b"data: {\"text\":\"yo\"}\n\n");
        assert!(finish(false).starts_with(b"data: {\"error\""));
    }

    #[test]
    fn a_wrong_request_is_told_what_is_missing() {
        assert!(request(br#"{"model":"m"}"#).is_err_and(|e| e.contains("prompt: a string is required")));
        assert!(request(b"no").is_err_and(|e| e.contains("not JSON")));
    }
}
