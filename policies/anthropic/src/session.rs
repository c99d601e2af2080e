//! One request with its answer, free of WebAssembly.

use crate::{error, request, response, stream::Stream};
use serde::Deserialize;
use serde_json::Value;

/// From `[policies.settings.anthropic]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Pass on the `x-anthropic-billing-header` text that coding agents put first. It changes with every
    /// request, so it would defeat every prefix cache; by default it is dropped.
    pub keep_billing_header: bool,
}

/// What this dialect serves; the order is the index that sessions are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Messages,
    CountTokens,
    Models,
    Model,
}

/// Method, path template, header that must be there.
pub const ENDPOINTS: [(Endpoint, &str, &str, Option<&str>); 4] = [
    (Endpoint::Messages, "POST", "/v1/messages", None),
    (Endpoint::CountTokens, "POST", "/v1/messages/count_tokens", None),
    (Endpoint::Models, "GET", "/v1/models", Some("anthropic-version")),
    (Endpoint::Model, "GET", "/v1/models/{model}", Some("anthropic-version")),
];

/// A native request: path and body.
pub type Native = (String, Vec<u8>);

pub struct Session {
    endpoint: Endpoint,
    settings: Settings,
    id: String,
    model: String,
    stream: Stream,
}

impl Session {
    /// An index past the list falls back to the first endpoint.
    pub fn new(endpoint: u32, seed: u64, settings: Settings) -> Self {
        let endpoint = ENDPOINTS.get(endpoint as usize).map_or(Endpoint::Messages, |e| e.0);
        let id = format!("msg_{:016x}{:08x}", seed, (seed >> 7) as u32 ^ 0x5bd1_e995);
        Self { endpoint, settings, stream: Stream::new(&id), id, model: String::new() }
    }

    /// The native request. An error is a sentence for the client.
    pub fn request(&mut self, path: &str, body: &[u8]) -> Result<Native, String> {
        match self.endpoint {
            Endpoint::Models | Endpoint::Model => Ok((path.to_owned(), Vec::new())),
            Endpoint::Messages | Endpoint::CountTokens => {
                let counting = self.endpoint == Endpoint::CountTokens;
                let body: Value = serde_json::from_slice(body)
                    .map_err(|e| format!("the request body is not valid JSON: {e}"))?;
                let native = request::to_chat(&body, counting, self.settings.keep_billing_header)?;
                self.model = native["model"].as_str().unwrap_or_default().to_owned();
                self.stream.set_model(&self.model);
                let path = if counting { "/tokenize" } else { "/v1/chat/completions" };
                Ok((path.to_owned(), native.to_string().into_bytes()))
            }
        }
    }

    /// A whole native answer, status and body, in this dialect.
    pub fn response(&self, status: u16, request_id: &str, body: &[u8]) -> Result<Vec<u8>, String> {
        if status >= 400 {
            return Ok(error::from_native(status, request_id, &self.model, body).to_string().into_bytes());
        }
        let native: Value =
            serde_json::from_slice(body).map_err(|e| format!("the native answer is not JSON: {e}"))?;
        let answer = match self.endpoint {
            Endpoint::Messages => response::message(&native, &self.id, &self.model)?,
            Endpoint::CountTokens => native,
            Endpoint::Models => response::models(&native),
            Endpoint::Model => response::model(&native),
        };
        Ok(answer.to_string().into_bytes())
    }

    /// Whole native events in, this dialect's events out.
    pub fn events(&mut self, sse: &[u8]) -> Vec<u8> {
        self.stream.events(sse)
    }

    pub fn finish(&mut self, clean: bool) -> Vec<u8> {
        self.stream.finish(clean)
    }
}

#[cfg(test)]
mod tests;
