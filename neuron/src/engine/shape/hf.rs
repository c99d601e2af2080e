//! A decoder out of a model's config.json, as the transformers library writes it.
//!
//! What a key says by being absent is what that library takes for it. What it would compute otherwise than
//! the forward here is refused by name.

mod attention;
mod rope;

use super::{Experts, Shape, ShapeError, inconsistent};
use crate::{
    engine::{Architecture, architecture::Activation},
    folder::Object,
    safetensors::{METHODS, Safetensors},
};

/// What Gemma 3's published files leave out where a model that sees is built around the text model.
const GEMMA3: [(&str, u64); 5] = [
    ("vocab_size", 262_208),
    ("num_attention_heads", 8),
    ("num_key_value_heads", 4),
    ("head_dim", 256),
    ("max_position_embeddings", 131_072),
];
const GEMMA3_EPSILON: f32 = 1e-6;
/// Qwen 3's heads where their width is not told.
const QWEN3_HEAD_DIM: u64 = 128;

/// The part of config.json that is the text model's.
struct Config<'a> {
    architecture: Architecture,
    /// config.json's own name for it.
    model_type: &'a str,
    text: Object<'a>,
    /// Of the model around it; of one that only reads, the same.
    whole: Object<'a>,
}

impl Shape {
    /// Reads the numbers and checks every tensor that the forward will use.
    pub fn from_safetensors(files: &Safetensors) -> Result<Self, ShapeError> {
        let config = Config::new(files.root())?;
        config.refuse_variants()?;
        let (hidden, heads) = (config.number("hidden_size")?, config.number("num_attention_heads")?);
        let gemma = config.architecture == Architecture::Gemma3;
        let head_dim = config.head_dim(hidden, heads)?;
        let layers = config.number("num_hidden_layers")?;
        let experts = config.experts()?;
        let epsilon = config.text.optional_positive("rms_norm_eps")?;
        let shape = Self {
            architecture: config.architecture,
            layers,
            hidden,
            feed_forward: if experts.is_some() { 0 } else { config.number("intermediate_size")? },
            heads,
            kv_heads: config.kv_heads(heads)?,
            head_dim,
            vocab: config.number("vocab_size")?,
            trained_context: config.number("max_position_embeddings")?,
            epsilon: match epsilon.or(gemma.then_some(GEMMA3_EPSILON)) {
                Some(epsilon) => epsilon,
                None => return Err(config.text.missing("rms_norm_eps").into()),
            },
            rope: config.rope()?,
            experts,
            window: config.window(layers)?,
            attention_scale: config.attention_scale(head_dim)?,
            embedding_scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
            tied: config.tied()?,
        };
        shape.check_numbers()?;
        files.check_tensors(&shape)?;
        Ok(shape)
    }
}

impl<'a> Config<'a> {
    fn new(whole: Object<'a>) -> Result<Self, ShapeError> {
        let model_type = whole.text("model_type")?;
        let architecture = Architecture::by_model_type(model_type)
            .ok_or_else(|| ShapeError::Unsupported(model_type.to_owned()))?;
        let inner = match architecture {
            Architecture::Gemma3 => whole.optional_object("text_config")?,
            _ => None,
        };
        let text = inner.unwrap_or_else(|| whole.clone());
        Ok(Self { architecture, model_type, text, whole })
    }

    fn unsupported(&self, what: &str) -> ShapeError {
        ShapeError::Unsupported(format!("{} with {what}", self.model_type))
    }

    /// A number that must be there, unless it is one that Gemma's files leave out.
    fn number(&self, key: &str) -> Result<u64, ShapeError> {
        let known =
            GEMMA3.iter().find(|(known, _)| self.architecture == Architecture::Gemma3 && *known == key);
        match (self.text.optional_number(key)?, known) {
            (Some(number), _) => Ok(number),
            (None, Some((_, number))) => Ok(*number),
            (None, None) => Err(self.text.missing(key).into()),
        }
    }

    fn head_dim(&self, hidden: u64, heads: u64) -> Result<u64, ShapeError> {
        match (self.text.optional_number("head_dim")?, self.architecture) {
            (Some(dim), _) => Ok(dim),
            (None, Architecture::Gemma3) => self.number("head_dim"),
            (None, Architecture::Qwen3) => Ok(QWEN3_HEAD_DIM),
            (None, _) if heads > 0 && hidden.is_multiple_of(heads) => Ok(hidden / heads),
            (None, _) => Err(inconsistent(format!("{hidden} dimensions over {heads} heads")).into()),
        }
    }

    /// The oldest files have none of their own: one for each head.
    fn kv_heads(&self, heads: u64) -> Result<u64, ShapeError> {
        let key = "num_key_value_heads";
        if self.model_type == "llama" || self.text.says_none(key) {
            return Ok(self.text.optional_number(key)?.unwrap_or(heads));
        }
        self.number(key)
    }

    fn experts(&self) -> Result<Option<Experts>, ShapeError> {
        if self.architecture != Architecture::Qwen3Moe {
            return Ok(None);
        }
        let dense = self.text.optional_array("mlp_only_layers")?.unwrap_or_default();
        if !dense.is_empty() || self.text.optional_number("decoder_sparse_step")?.unwrap_or(1) != 1 {
            return Err(self.unsupported("layers without experts"));
        }
        let count = match self.text.optional_number("num_local_experts")? {
            Some(count) => count,
            None => self.number("num_experts")?,
        };
        Ok(Some(Experts {
            count,
            used: self.number("num_experts_per_tok")?,
            feed_forward: self.number("moe_intermediate_size")?,
            normalized: self.text.optional_flag("norm_topk_prob")?.unwrap_or(false),
        }))
    }

    fn tied(&self) -> Result<bool, ShapeError> {
        let key = "tie_word_embeddings";
        let told = match self.text.optional_flag(key)? {
            Some(tied) => Some(tied),
            None => self.whole.optional_flag(key)?,
        };
        Ok(told.unwrap_or(self.architecture == Architecture::Gemma3))
    }

    /// Variants that would run without a word, and wrongly.
    fn refuse_variants(&self) -> Result<(), ShapeError> {
        for key in ["attention_bias", "mlp_bias", "use_bidirectional_attention"] {
            if self.text.optional_flag(key)?.unwrap_or(false) {
                return Err(self.unsupported(key));
            }
        }
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if self.text.optional_positive(key)?.is_some() {
                return Err(self.unsupported(key));
            }
        }
        for quantized in [&self.text, &self.whole] {
            if let Some(how) = quantized.optional_object("quantization_config")? {
                let method = how.optional_text("quant_method")?.unwrap_or("an unnamed method");
                // What their tensors are is looked at one by one.
                if METHODS.contains(&method) {
                    continue;
                }
                return Err(self.unsupported(&format!("weights quantized by {method}")));
            }
        }
        let (key, known): (_, &[&str]) = match self.architecture.activation() {
            Activation::Silu => ("hidden_act", &["silu", "swish"]),
            Activation::Gelu => ("hidden_activation", &["gelu_pytorch_tanh"]),
        };
        match self.text.optional_text(key)? {
            Some(other) if !known.contains(&other) => {
                Err(self.unsupported(&format!("the activation {other:?}")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
