use serde::{Deserialize, Serialize};

/// Answer to `POST /models/preflight`, which takes what `POST /models/load` does: what the load would take. Nothing of
/// the weights is read or fetched for it beyond their beginnings. What speaks against it is answered as by the load.
/// Memory in MiB.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preflight {
    pub model_id: String,
    /// Of the weights, by name.
    #[serde(default)]
    pub file: String,
    #[serde(default)]
    pub architecture: String,
    /// `batched` or `single`, as in /models.
    #[serde(default)]
    pub engine: String,
    /// Tokens of prompt and answer, as memory allows.
    #[serde(default)]
    pub context: u64,
    /// There from the load on.
    #[serde(default)]
    pub weights_mb: u64,
    /// Tokenizer and template, there from the load on.
    #[serde(default)]
    pub text_mb: u64,
    /// Keys and values.
    #[serde(default)]
    pub cache_mb: u64,
    /// The largest step.
    #[serde(default)]
    pub activations_mb: u64,
    /// All of that, with the margin that is kept free.
    #[serde(default)]
    pub required_mb: u64,
    #[serde(default)]
    pub free_mb: u64,
}
