//! Upstreams that speak Anthropic Messages, made to look native: the mirror of `policies/anthropic`.
//!
//! A [`session::Session`] carries one request through: a chat completion request becomes one of Messages (`request`),
//! the answer and its errors become native (`response`, `stream`, `error`).

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod session;
pub mod settings;

mod error;
mod request;
mod response;
mod stream;

#[cfg(target_family = "wasm")]
mod component;
