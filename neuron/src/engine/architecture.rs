//! The architectures that can be run, and what is peculiar to each: one table.

/// A family of models with one set of tensors and one forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama and what is built like it: SmolLM2, Mistral, TinyLlama.
    Llama,
    Qwen2,
    Qwen3,
    Qwen3Moe,
    Gemma3,
}

/// What gates the feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    Silu,
    /// By its tanh form.
    Gelu,
}

impl Architecture {
    /// All of them, in the order in which errors name them.
    pub const ALL: [Self; 5] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Qwen3Moe, Self::Gemma3];

    /// GGUF's `general.architecture`, and the prefix of the model's own metadata keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Moe => "qwen3moe",
            Self::Gemma3 => "gemma3",
        }
    }

    /// By GGUF's `general.architecture`.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    /// By config.json's `model_type`.
    pub fn by_model_type(name: &str) -> Option<Self> {
        Some(match name {
            "llama" | "mistral" => Self::Llama,
            "qwen2" => Self::Qwen2,
            "qwen3" => Self::Qwen3,
            "qwen3_moe" => Self::Qwen3Moe,
            "gemma3" | "gemma3_text" => Self::Gemma3,
            _ => return None,
        })
    }

    /// Queries, keys and values have biases.
    pub(super) fn has_qkv_bias(self) -> bool {
        self == Self::Qwen2
    }

    /// Queries and keys are normalised for each head.
    pub(super) fn has_qk_norm(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Qwen3Moe | Self::Gemma3)
    }

    /// What attention and feed-forward add is normalised before it is added.
    pub(super) fn has_post_norms(self) -> bool {
        self == Self::Gemma3
    }

    /// Norms are stored less one in safetensors; GGUF's converter has added it.
    pub(super) fn norms_lack_one(self) -> bool {
        self == Self::Gemma3
    }

    /// GGUF's converter has reordered the rows of queries and keys, so that pairs that rotate together
    /// are neighbours.
    pub(super) fn gguf_has_pairs(self) -> bool {
        self == Self::Llama
    }

    pub(super) fn activation(self) -> Activation {
        if self == Self::Gemma3 { Activation::Gelu } else { Activation::Silu }
    }
}
