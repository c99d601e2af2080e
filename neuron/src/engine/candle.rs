//! Architectures beyond our decoder's, computed by candle-transformers: one sequence at a time.
//!
//! Its models keep one conversation's state inside themselves, so nothing is shared between conversations
//! and no two run together. What comes in safetensors is computed in F32, which candle's kernels do
//! well on a CPU.
//!
//! Reading order: [`catalogue`] says which there are and what is peculiar to each; [`form`] checks a model's
//! files by building it without memory; [`reader`] hands out its tensors; [`gguf`] has those that come in GGUF
//! files; [`single`] runs them.

mod catalogue;
mod config;
mod form;
mod gguf;
mod nets;
mod reader;
mod single;

pub use form::Form;
pub(super) use single::Single;

/// Architectures out of GGUF.
pub(crate) fn gguf_names() -> impl Iterator<Item = &'static str> {
    gguf::names()
}

/// config.json's `model_type` of every architecture here.
pub(crate) fn model_types() -> impl Iterator<Item = &'static str> {
    catalogue::CATALOGUE.iter().map(|entry| entry.model_type)
}
