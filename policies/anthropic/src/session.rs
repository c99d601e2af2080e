//! One request with its answer, free of WebAssembly.

use crate::request::{self, Asked};
use crate::settings::Settings;
use crate::stream::{self, Messages};
use crate::{error, response};
use policy_chat::error::NativeError;
use policy_chat::id;
use policy_chat::stream::Stream;
use serde_json::{Value, json};

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
    (Endpoint::Model, "GET", MODEL, Some("anthropic-version")),
];

const MODEL: &str = "/v1/models/{model}";

/// A native request: path and body.
pub type Native = (String, Vec<u8>);

pub struct Session {
    endpoint: Endpoint,
    settings: Settings,
    seed: u64,
    stream: Stream<Messages>,
    /// It was refused for its `thread`.
    threaded: bool,
}

impl Session {
    /// An index past the list falls back to the first endpoint.
    pub fn new(endpoint: u32, seed: u64, settings: Settings) -> Self {
        let endpoint = ENDPOINTS.get(endpoint as usize).map_or(Endpoint::Messages, |e| e.0);
        let id = format!("msg_{}", id::digits(seed, 0));
        Self { endpoint, settings, seed, stream: Stream::new(Messages::new(id), seed), threaded: false }
    }

    /// The native request. An error is a sentence for the client.
    pub fn request(&mut self, path: &str, body: &[u8]) -> Result<Native, String> {
        match self.endpoint {
            Endpoint::Models => Ok((path.to_owned(), Vec::new())),
            Endpoint::Model => Ok((self.model(path), Vec::new())),
            Endpoint::Messages | Endpoint::CountTokens => {
                let counting = self.endpoint == Endpoint::CountTokens;
                let (native, asked) =
                    request::to_chat(body, counting, &self.settings).inspect_err(|why| {
                        self.threaded = why == request::NO_THREADS;
                    })?;
                self.stream.writer.asked = asked;
                let path = if counting { "/tokenize" } else { "/v1/chat/completions" };
                Ok((path.to_owned(), native))
            }
        }
    }

    /// The path of what an alias stands for.
    fn model(&mut self, path: &str) -> String {
        let prefix = MODEL.trim_end_matches("{model}");
        let name = path.strip_prefix(prefix).unwrap_or_default();
        match self.settings.model(name) {
            same if same == name => path.to_owned(),
            model => {
                self.stream.writer.asked = Asked { model: name.to_owned(), ..Asked::default() };
                [prefix, model].concat()
            }
        }
    }

    /// A whole native answer, status and body, in this dialect.
    pub fn response(&self, status: u16, request_id: &str, body: &[u8]) -> Result<Vec<u8>, String> {
        let Messages { id, asked, .. } = &self.stream.writer;
        if status >= 400 {
            let native = NativeError::of_body(status, body);
            let mut body = error::body(&native, &asked.model, request_id);
            if self.threaded {
                body["error"]["details"] =
                    json!({"error_code": "thread_unsupported_request", "unsupported": ["thread"]});
            }
            return Ok(body.to_string().into_bytes());
        }
        if self.endpoint == Endpoint::Messages {
            return Ok(response::message(body, id, self.seed, asked)?.to_string().into_bytes());
        }
        let native: Value =
            serde_json::from_slice(body).map_err(|e| format!("the native answer is not JSON: {e}"))?;
        let answer = match self.endpoint {
            Endpoint::Models => response::models(&native),
            Endpoint::Model if !asked.model.is_empty() => response::alias(&native, &asked.model),
            Endpoint::Model => response::model(&native),
            Endpoint::Messages | Endpoint::CountTokens => native,
        };
        Ok(answer.to_string().into_bytes())
    }

    /// Whole native events in, this dialect's events out.
    pub fn events(&mut self, sse: &[u8]) -> Vec<u8> {
        self.stream.events(sse)
    }

    pub fn finish(&mut self) -> Vec<u8> {
        self.stream.finish()
    }

    /// What keeps a waiting client patient.
    pub fn keep_alive(&self) -> Vec<u8> {
        stream::ping()
    }
}

#[cfg(test)]
mod tests;
