//! One request with its answer, free of WebAssembly.

use crate::settings::Settings;
use crate::stream::Response;
use crate::{request, response};
use policy_chat::stream::Stream;
use serde_json::{Value, json};

/// What this dialect serves; the order is the index that sessions are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Responses,
    InputTokens,
}

/// Method and path.
pub const ENDPOINTS: [(Endpoint, &str, &str); 2] = [
    (Endpoint::Responses, "POST", "/v1/responses"),
    (Endpoint::InputTokens, "POST", "/v1/responses/input_tokens"),
];

/// A native request: path and body.
pub type Native = (String, Vec<u8>);

pub struct Session {
    endpoint: Endpoint,
    settings: Settings,
    seed: u64,
    stream: Stream<Response>,
}

impl Session {
    /// An index past the list falls back to the first endpoint.
    pub fn new(endpoint: u32, seed: u64, settings: Settings) -> Self {
        let endpoint = ENDPOINTS.get(endpoint as usize).map_or(Endpoint::Responses, |e| e.0);
        Self { endpoint, settings, seed, stream: Stream::new(Response::new(seed), seed) }
    }

    /// The native request. An error is a sentence for the client.
    pub fn request(&mut self, body: &[u8]) -> Result<Native, String> {
        let counting = self.endpoint == Endpoint::InputTokens;
        let (native, asked) = request::to_chat(body, counting, &self.settings)?;
        self.stream.writer.asked = asked;
        let path = if counting { "/tokenize" } else { "/v1/chat/completions" };
        Ok((path.to_owned(), native))
    }

    /// A whole native answer, status and body, in this dialect. Errors are the same in both.
    pub fn response(&self, status: u16, body: &[u8]) -> Result<Vec<u8>, String> {
        match self.endpoint {
            _ if status >= 400 => Ok(body.to_vec()),
            Endpoint::Responses => response::response(body, self.seed, &self.stream.writer.asked),
            Endpoint::InputTokens => {
                let native: Value = serde_json::from_slice(body)
                    .map_err(|e| format!("the native answer is not JSON: {e}"))?;
                let counted =
                    json!({"object": "response.input_tokens", "input_tokens": native["input_tokens"]});
                Ok(counted.to_string().into_bytes())
            }
        }
    }

    /// Whole native events in, this dialect's events out.
    pub fn events(&mut self, sse: &[u8]) -> Vec<u8> {
        self.stream.events(sse)
    }

    pub fn finish(&mut self) -> Vec<u8> {
        self.stream.finish()
    }
}

#[cfg(test)]
mod tests;
