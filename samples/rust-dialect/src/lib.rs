//! Google's generateContent, plain and streamed, as a dialect: a file in a directory, and clients of it are served.
//!
//! `request` turns what comes into a chat completion request, `answer` turns what comes back; the rest is glue.

pub mod answer;
pub mod request;

#[cfg(target_family = "wasm")]
mod component;
