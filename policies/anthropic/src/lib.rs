//! Translation: Anthropic Messages to OpenAI chat completions and back.
//!
//! A [`session::Session`] carries one request through: what the client sends becomes a native request
//! (`body`, `request`, `content`), the answer and its errors become Anthropic's (`response`, `stream`, `error`).

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod session;
pub mod settings;

mod body;
mod content;
mod error;
mod request;
mod response;
mod stream;

#[cfg(target_family = "wasm")]
mod component;

#[cfg(test)]
mod golden;
