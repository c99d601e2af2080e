//! What a device's thread asks of a model.

use std::path::Path;

use super::Shape;
use crate::gguf::Header;

/// A loaded model with the cache of one sequence. It never leaves its device's thread.
pub trait Model {
    /// Runs `tokens`, the first of which stands at `position`, and returns the logits after the last
    /// of them: `[vocab]`, f32. The cache must hold exactly the `position` tokens before; 0 starts anew.
    fn forward(&mut self, tokens: &[u32], position: usize) -> Result<Vec<f32>, ModelError>;

    /// Forgets the sequence and gives its memory back.
    fn reset(&mut self);

    /// How many of `left` prompt tokens the next forward takes: at least 1, at most `left`.
    fn chunk(&self, left: usize) -> usize;
}

/// Makes models. The worker is written against this, so that it can be tested without weights.
pub trait Backend: Send {
    /// Reads the weights of the file at `path` into the device's memory, for windows of `context` tokens.
    fn load(
        &mut self,
        path: &Path,
        header: &Header,
        shape: &Shape,
        context: u64,
    ) -> Result<Box<dyn Model>, ModelError>;
}

/// What the engine's library says went wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ModelError(pub String);
