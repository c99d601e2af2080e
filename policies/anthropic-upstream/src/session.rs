//! One upstream request with its answer, free of WebAssembly.

use crate::settings::Settings;
use crate::stream::Stream;
use crate::{error, request, response};
use serde_json::Value;

/// An upstream request: path, headers and body.
pub type Foreign = (String, Vec<(String, String)>, Vec<u8>);

/// A native answer: status and body.
pub type Native = (u16, Vec<u8>);

#[derive(Debug)]
pub struct Session {
    settings: Settings,
    /// Only the prompt's tokens are asked for.
    counting: bool,
    stream: Stream,
}

impl Session {
    pub fn new(settings: Settings) -> Self {
        Self { settings, counting: false, stream: Stream::default() }
    }

    /// A native request as the upstream's. An error is a sentence for the client.
    pub fn request(&mut self, path: &str, body: &[u8]) -> Result<Foreign, String> {
        self.counting = path == "/tokenize";
        if !self.counting && path != "/v1/chat/completions" {
            return Err(format!("{path} is nothing that an upstream of this dialect serves"));
        }
        let messages = request::to_messages(body, self.counting, &self.settings)?;
        let headers = vec![
            ("content-type".into(), "application/json".into()),
            ("anthropic-version".into(), self.settings.version.clone()),
        ];
        let path = if self.counting { "/v1/messages/count_tokens" } else { "/v1/messages" };
        Ok((path.into(), headers, messages.to_string().into_bytes()))
    }

    /// The upstream's whole answer as a native one. An error is for the log.
    pub fn response(&self, status: u16, body: &[u8]) -> Result<Native, String> {
        if status < 400 && self.counting {
            return Ok((status, body.to_vec()));
        }
        if status < 400 {
            return Ok((status, response::completion(body)?.to_string().into_bytes()));
        }
        // Anthropic's own status for a full house.
        let status = if status == 529 { 503 } else { status };
        let said: Value = serde_json::from_slice(body).unwrap_or_default();
        Ok((status, error::native(&said["error"], status).to_string().into_bytes()))
    }

    /// Whole events of the upstream; native ones come out.
    pub fn events(&mut self, sse: &[u8]) -> Vec<u8> {
        self.stream.events(sse)
    }

    pub fn finish(&mut self) -> Vec<u8> {
        self.stream.finish()
    }
}

#[cfg(test)]
pub(crate) mod tests;
