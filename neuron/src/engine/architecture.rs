//! The architectures that can be run, and what is peculiar to each: one table.

/// A family of models with one shape of tensors and one forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama and what is built like it: SmolLM2, Mistral, TinyLlama.
    Llama,
    Qwen2,
    Qwen3,
}

impl Architecture {
    /// All of them, in the order in which errors name them.
    pub const ALL: [Self; 3] = [Self::Llama, Self::Qwen2, Self::Qwen3];

    /// `general.architecture`, and the prefix of the model's own metadata keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// By `general.architecture`.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    /// Tokens that the forward can position at most, whatever the model was made for.
    pub(super) fn max_context(self) -> u64 {
        match self {
            // candle's quantized_llama has a rotary table of this length.
            Self::Llama => 4096,
            // candle's quantized_qwen2 keeps every causal mask that it has made: at most half the window squared.
            Self::Qwen2 => 8192,
            Self::Qwen3 => u64::MAX,
        }
    }

    /// Queries, keys and values have biases.
    pub(super) fn has_qkv_bias(self) -> bool {
        self == Self::Qwen2
    }

    /// Queries and keys are normalised for each head.
    pub(super) fn has_qk_norm(self) -> bool {
        self == Self::Qwen3
    }
}
