//! Translation: OpenAI Responses to chat completions and back.
//!
//! A [`session::Session`] carries one request through: what the client sends becomes a native request (`body`,
//! `request`, `input`, `tools`), the answer becomes items (`response`, `stream`), `echo` is what a response says
//! of its request.

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod session;
pub mod settings;

mod body;
mod custom;
mod echo;
mod error;
mod input;
mod item;
mod request;
mod response;
mod stream;
mod tools;

#[cfg(target_family = "wasm")]
mod component;

#[cfg(test)]
mod golden;
