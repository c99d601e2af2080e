//! Translation: Anthropic Messages to OpenAI chat completions and back.
//!
//! A [`session::Session`] carries one request through: [`request`] turns it into a native one,
//! [`response`] and [`stream`] turn the answer back, [`error`] the refusals.

pub mod error;
pub mod request;
pub mod response;
pub mod session;
pub mod stream;

#[cfg(target_family = "wasm")]
mod component;
