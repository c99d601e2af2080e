//! Which dialect a request speaks, by method, path and headers.

use crate::policy::{Claim, Generation, Kind, Table};
use crate::refusal::Refusal;
use http::StatusCode;
use http::request::Parts;
use std::sync::Arc;

pub(super) enum Recognised {
    Native,
    /// The policy and which of its endpoints.
    Translated(Arc<Generation>, u32),
}

/// What the gateway serves itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Native {
    /// `HEAD /` and `GET /`: coding agents look whether somebody is there.
    Alive,
    Health,
    Models,
    Model(String),
    Inference(Inference),
}

/// What a node serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inference {
    Chat,
    Completion,
    Embedding,
    /// Counting tokens needs no weights on a device, so it never loads a model.
    Tokenize,
    /// Nor does telling their text.
    Detokenize,
}

impl Inference {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completion => "/v1/completions",
            Self::Embedding => "/v1/embeddings",
            Self::Tokenize => "/tokenize",
            Self::Detokenize => "/detokenize",
        }
    }

    /// The model's files are enough, and it costs nothing.
    pub(super) fn is_about_tokens(self) -> bool {
        matches!(self, Self::Tokenize | Self::Detokenize)
    }
}

impl Inference {
    /// As OpenTelemetry names it; counting tokens is none.
    pub(super) fn operation(self) -> Option<&'static str> {
        match self {
            Self::Chat => Some("chat"),
            Self::Completion => Some("text_completion"),
            Self::Embedding => Some("embeddings"),
            Self::Tokenize | Self::Detokenize => None,
        }
    }
}

/// Dialects that ask for a header come first: they claim a part of what others serve.
pub(super) fn recognise(table: &Table, parts: &Parts) -> Result<Recognised, Refusal> {
    let (method, path) = (parts.method.as_str(), parts.uri.path());
    let fits = |claim: &Claim| {
        claim.method == method
            && matches(&claim.path, path)
            && claim.header.as_ref().is_none_or(|h| parts.headers.contains_key(h))
    };
    for generation in table.all(Kind::Translation) {
        if let Some(endpoint) = generation.claims().iter().position(fits) {
            return Ok(Recognised::Translated(generation, endpoint as u32));
        }
    }
    if native(method, path).is_some() {
        return Ok(Recognised::Native);
    }
    let dialects: Vec<Arc<Generation>> = table.all(Kind::Translation).collect();
    let known = dialects.iter().flat_map(|g| g.claims().iter().map(|c| c.path.as_str()));
    let known: Vec<&str> = known.chain(NATIVE_PATHS).collect();
    if known.iter().any(|template| matches(template, path)) {
        let message = format!("{path} does not take {method}");
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message));
    }
    let near = crate::config::nearest(path, known.iter().copied(), 1).pop();
    let hint = near.map(|n| format!("; did you mean {n}?")).unwrap_or_default();
    let message = format!("there is no {path} here{hint}");
    Err(Refusal::new(StatusCode::NOT_FOUND, "not_found", message))
}

const NATIVE_PATHS: [&str; 8] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/tokenize",
    "/detokenize",
    "/v1/models",
    "/v1/models/{model}",
    "/health",
];

/// Whether it only looks if somebody is there.
pub(super) fn is_probe(parts: &Parts) -> bool {
    matches!((parts.method.as_str(), parts.uri.path()), ("GET" | "HEAD", "/" | "/health"))
}

/// `None` where the gateway has no such call.
pub(super) fn native(method: &str, path: &str) -> Option<Native> {
    let inference = [
        Inference::Chat,
        Inference::Completion,
        Inference::Embedding,
        Inference::Tokenize,
        Inference::Detokenize,
    ];
    match (method, path) {
        ("GET" | "HEAD", "/") => Some(Native::Alive),
        ("GET" | "HEAD", "/health") => Some(Native::Health),
        ("GET", "/v1/models") => Some(Native::Models),
        // Ids have slashes, escaped by some clients and raw by others.
        ("GET", path) => {
            let id = path.strip_prefix("/v1/models/").filter(|id| !id.is_empty())?;
            Some(Native::Model(percent_encoding::percent_decode_str(id).decode_utf8_lossy().into_owned()))
        }
        ("POST", path) => inference.into_iter().find(|i| i.path() == path).map(Native::Inference),
        _ => None,
    }
}

/// `{name}` at the end of a template stands for the rest of the path, elsewhere for one segment.
fn matches(template: &str, path: &str) -> bool {
    match template.split_once('{') {
        None => template == path,
        Some((before, rest)) => {
            let Some(path) = path.strip_prefix(before) else { return false };
            let Some((_, after)) = rest.split_once('}') else { return false };
            if after.is_empty() {
                return !path.is_empty();
            }
            let end = path.find('/').unwrap_or(path.len());
            (1..=end).any(|at| path.is_char_boundary(at) && matches(after, &path[at..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let check = |template, path, want| assert_eq!(matches(template, path), want, "{template} {path}");
        check("/v1/messages", "/v1/messages", true);
        check("/v1/messages", "/v1/messages/x", false);
        check("/v1/models/{model}", "/v1/models/org/name", true);
        check("/v1/models/{model}", "/v1/models/", false);
        check("/v1beta/models/{model}:generateContent", "/v1beta/models/gemma:generateContent", true);
        check("/v1beta/models/{model}:generateContent", "/v1beta/models/a/b:generateContent", false);
        check("/v1beta/models/{model}:generateContent", "/v1beta/models/:generateContent", false);
    }

    #[test]
    fn native_calls() {
        assert_eq!(native("GET", "/v1/models/org%2Fname"), Some(Native::Model("org/name".into())));
        assert_eq!(native("POST", "/tokenize"), Some(Native::Inference(Inference::Tokenize)));
        assert_eq!(native("GET", "/v1/chat/completions"), None);
        assert_eq!(native("HEAD", "/"), Some(Native::Alive));
    }
}
