//! Architectures beyond our decoder's, computed by candle-transformers: one sequence at a time.
//!
//! Its models keep one conversation's state inside themselves, so nothing is shared between conversations
//! and no two run together. Everything is computed in F32, which is what candle's kernels do well on a CPU.
//!
//! Reading order: [`catalogue`] says which there are and what is peculiar to each; [`form`] checks a model's
//! files by building it without memory; [`reader`] hands out its tensors; [`single`] runs it.

mod catalogue;
mod config;
mod form;
mod nets;
mod reader;
mod single;

pub use form::Form;
pub(super) use single::Single;

/// config.json's `model_type` of every architecture here.
pub(crate) fn model_types() -> impl Iterator<Item = &'static str> {
    catalogue::CATALOGUE.iter().map(|entry| entry.model_type)
}
