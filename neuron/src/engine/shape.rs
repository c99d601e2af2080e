//! What a decoder is made of, checked against the tensors that there are, so that no forward can meet a
//! dimension that does not fit.

mod gguf;
mod hf;

use std::collections::BTreeMap;

use super::Architecture;
use crate::{folder::FolderError, gguf::GgufError};

/// No model has more layers, heads or experts; a larger number is damage.
const MAX_COUNT: u64 = 4096;

/// A decoder, by its numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    pub architecture: Architecture,
    pub layers: u64,
    pub hidden: u64,
    /// Of a layer without experts.
    pub feed_forward: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    /// Rows of the output matrix.
    pub vocab: u64,
    /// Tokens that the model was made for.
    pub trained_context: u64,
    pub epsilon: f32,
    pub rope: Rope,
    pub experts: Option<Experts>,
    pub window: Option<Window>,
    /// Applied to queries before they meet keys.
    pub attention_scale: f32,
    /// Applied to embeddings.
    pub embedding_scale: f32,
    /// Embeddings are the output matrix too.
    pub tied: bool,
}

impl Shape {
    /// Of each of `size` parts: some of the heads and of the feed-forward. Errors where they cannot be shared out evenly.
    pub fn sharded(&self, size: u64) -> Result<Self, String> {
        let part = |what: &str, count: u64| match count.is_multiple_of(size) {
            true => Ok(count / size),
            false => Err(format!("its {count} {what} cannot be shared out over {size} devices")),
        };
        let experts = self.experts.map(|experts| {
            let feed_forward = part("columns of an expert", experts.feed_forward)?;
            Ok::<_, String>(Experts { feed_forward, ..experts })
        });
        Ok(Self {
            heads: part("heads", self.heads)?,
            kv_heads: part("heads of keys and values", self.kv_heads)?,
            // With experts it says nothing.
            feed_forward: match experts {
                None => part("columns of the feed-forward", self.feed_forward)?,
                Some(_) => self.feed_forward,
            },
            experts: experts.transpose()?,
            ..self.clone()
        })
    }
}

/// How positions turn queries and keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    pub base: f32,
    pub scaling: Scaling,
    /// Of layers with a window, where it is another; those are not scaled.
    pub local_base: Option<f32>,
}

/// How frequencies are stretched for long contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    None,
    /// Positions are divided by this.
    Linear(f32),
    /// Frequencies are divided by those of the tensor `rope_freqs.weight`.
    Tensor,
    /// Llama 3.1's: low frequencies are divided by `factor`, high ones are not, between them it is blended.
    Llama3 {
        factor: f32,
        low: f32,
        high: f32,
        original: f32,
    },
}

/// A layer whose feed-forward is chosen for each token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Experts {
    pub count: u64,
    /// For each token.
    pub used: u64,
    pub feed_forward: u64,
    /// The weights of the chosen ones are made to add up to one.
    pub normalized: bool,
}

/// Layers that see only the newest tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub tokens: u64,
    /// Each so many-th layer sees everything; 0: none does.
    pub all_every: u64,
}

/// Why a model's description describes nothing that can be run.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// The architecture, or a variant of one, as a name for the error.
    #[error("{0} is not supported")]
    Unsupported(String),
    #[error(transparent)]
    File(#[from] GgufError),
    #[error(transparent)]
    Folder(#[from] FolderError),
}

impl Shape {
    /// Tokens of prompt and answer that fit: the least of what the model and the configuration (0: no
    /// limit of its own) allow.
    pub fn context(&self, configured: u64) -> u64 {
        let configured = if configured == 0 { u64::MAX } else { configured };
        self.trained_context.min(configured)
    }

    /// The window of a layer; `None`: it sees everything.
    pub fn window_of(&self, layer: u64) -> Option<u64> {
        let window = self.window?;
        let sees_all = window.all_every > 0 && (layer + 1).is_multiple_of(window.all_every);
        (!sees_all).then_some(window.tokens)
    }

    /// The tensors of the forward under GGUF's names, with their dimensions, rows last: all, and no others.
    pub(crate) fn tensors(&self) -> BTreeMap<String, Vec<u64>> {
        let Self { hidden, feed_forward, heads, kv_heads, head_dim, vocab, architecture, .. } = *self;
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        let mut all = BTreeMap::new();
        let mut add = |name: String, dims: &[u64]| all.insert(name, dims.to_vec());
        add("token_embd.weight".to_owned(), &[hidden, vocab]);
        add("output_norm.weight".to_owned(), &[hidden]);
        if !self.tied {
            add("output.weight".to_owned(), &[hidden, vocab]);
        }
        if self.rope.scaling == Scaling::Tensor {
            add("rope_freqs.weight".to_owned(), &[head_dim / 2]);
        }
        for layer in 0..self.layers {
            let mut add = |part: &str, dims: &[u64]| add(format!("blk.{layer}.{part}"), dims);
            add("attn_norm.weight", &[hidden]);
            add("attn_q.weight", &[hidden, queries]);
            add("attn_k.weight", &[hidden, keys]);
            add("attn_v.weight", &[hidden, keys]);
            add("attn_output.weight", &[queries, hidden]);
            add("ffn_norm.weight", &[hidden]);
            if architecture.has_qkv_bias() {
                add("attn_q.bias", &[queries]);
                add("attn_k.bias", &[keys]);
                add("attn_v.bias", &[keys]);
            }
            if architecture.has_qk_norm() {
                add("attn_q_norm.weight", &[head_dim]);
                add("attn_k_norm.weight", &[head_dim]);
            }
            if architecture.has_post_norms() {
                add("post_attention_norm.weight", &[hidden]);
                add("post_ffw_norm.weight", &[hidden]);
            }
            match self.experts {
                None => {
                    add("ffn_gate.weight", &[hidden, feed_forward]);
                    add("ffn_up.weight", &[hidden, feed_forward]);
                    add("ffn_down.weight", &[feed_forward, hidden]);
                }
                Some(Experts { count, feed_forward, .. }) => {
                    add("ffn_gate_inp.weight", &[hidden, count]);
                    add("ffn_gate_exps.weight", &[hidden, feed_forward, count]);
                    add("ffn_up_exps.weight", &[hidden, feed_forward, count]);
                    add("ffn_down_exps.weight", &[feed_forward, hidden, count]);
                }
            }
        }
        all
    }

    /// Numbers that no forward could work with.
    fn check_numbers(&self) -> Result<(), ShapeError> {
        let Self { heads, kv_heads, head_dim, hidden, feed_forward, layers, vocab, .. } = *self;
        for (what, count) in [("layers", layers), ("heads", heads), ("heads for keys and values", kv_heads)] {
            if !(1..=MAX_COUNT).contains(&count) {
                return Err(inconsistent(format!("{count} {what}")).into());
            }
        }
        if !heads.is_multiple_of(kv_heads)
            || !head_dim.is_multiple_of(2)
            || !(1..=MAX_COUNT).contains(&head_dim)
        {
            let text = format!("{heads} heads, {kv_heads} for keys and values, of {head_dim} dimensions");
            return Err(inconsistent(text).into());
        }
        for (what, size) in
            [("dimensions", hidden), ("feed-forward dimensions", feed_forward), ("tokens", vocab)]
        {
            let needless = what == "feed-forward dimensions" && self.experts.is_some();
            if !needless && !(1..=1 << 24).contains(&size) {
                return Err(inconsistent(format!("{size} {what}")).into());
            }
        }
        if self.trained_context == 0 || self.trained_context > 1 << 24 {
            return Err(inconsistent(format!("a context of {} tokens", self.trained_context)).into());
        }
        if let Some(Experts { count, used, feed_forward, .. }) = self.experts
            && (count > MAX_COUNT || used == 0 || used > count || !(1..=1 << 24).contains(&feed_forward))
        {
            let text = format!("{used} of {count} experts of {feed_forward} dimensions");
            return Err(inconsistent(text).into());
        }
        Ok(())
    }
}

fn inconsistent(text: String) -> GgufError {
    GgufError::Inconsistent(format!("it claims {text}"))
}

/// A float that may be absent, but not zero, negative or no number.
fn positive(key: &str, value: Option<f64>) -> Result<Option<f64>, GgufError> {
    match value {
        Some(x) if !(x.is_finite() && x > 0.0) => Err(inconsistent(format!("{key} = {x}"))),
        other => Ok(other),
    }
}

/// A small one, for tests that need any.
#[cfg(test)]
pub(crate) fn shape_for_tests(architecture: Architecture) -> Shape {
    Shape {
        architecture,
        layers: 1,
        hidden: 2,
        feed_forward: 2,
        heads: 1,
        kv_heads: 1,
        head_dim: 2,
        vocab: 64,
        trained_context: 64,
        epsilon: 1e-5,
        rope: Rope { base: 1e4, scaling: Scaling::None, local_base: None },
        experts: None,
        window: None,
        attention_scale: 1.0,
        embedding_scale: 1.0,
        tied: true,
    }
}
