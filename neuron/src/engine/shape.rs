//! A model's dimensions out of its header, checked against its tensors, so that no forward can meet a
//! shape that does not fit.

use std::collections::BTreeSet;

use super::Architecture;
use crate::gguf::{GgufError, Header};

/// No model has more layers, heads or the like; a larger number is damage.
const MAX_COUNT: u64 = 1024;

/// Dimensions of a decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub architecture: Architecture,
    pub layers: u64,
    pub hidden: u64,
    pub feed_forward: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    /// Rows of the output matrix.
    pub vocab: u64,
    /// Tokens that the model was made for.
    pub trained_context: u64,
}

/// Why a header describes nothing that can be run.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// The architecture, or a variant of one, as a name for the error.
    #[error("{0} is not supported")]
    Unsupported(String),
    #[error(transparent)]
    File(#[from] GgufError),
}

impl Shape {
    /// Reads the dimensions and checks every tensor that the forward will use.
    pub fn from_header(header: &Header) -> Result<Self, ShapeError> {
        let name = header.architecture()?;
        let architecture =
            Architecture::by_name(name).ok_or_else(|| ShapeError::Unsupported(name.to_owned()))?;
        refuse_variants(header, architecture)?;
        let count = |key: &str| -> Result<u64, GgufError> {
            let key = format!("{name}.{key}");
            match header.number(&key)? {
                n if (1..=MAX_COUNT).contains(&n) => Ok(n),
                n => Err(GgufError::Inconsistent(format!("{key} is {n}"))),
            }
        };
        let size = |key: &str| header.number(&format!("{name}.{key}"));

        let heads = count("attention.head_count")?;
        let hidden = size("embedding_length")?;
        let head_dim = match header.optional_number(&format!("{name}.attention.key_length"))? {
            Some(length) => length,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(inconsistent(format!("{hidden} dimensions over {heads} heads")).into()),
        };
        let shape = Self {
            architecture,
            layers: count("block_count")?,
            hidden,
            feed_forward: size("feed_forward_length")?,
            heads,
            kv_heads: count("attention.head_count_kv")?,
            head_dim,
            vocab: matrix(header, "token_embd.weight")?.1,
            trained_context: size("context_length")?,
        };
        shape.check(header)?;
        let epsilon = format!("{name}.attention.layer_norm_rms_epsilon");
        positive(header, &epsilon)?.ok_or(GgufError::Missing(epsilon))?;
        positive(header, &format!("{name}.rope.freq_base"))?;
        Ok(shape)
    }

    /// Tokens of prompt and answer that fit: the least of what the model, the forward and the
    /// configuration (0: no limit of its own) allow.
    pub fn context(&self, configured: u64) -> u64 {
        let configured = if configured == 0 { u64::MAX } else { configured };
        self.trained_context.min(self.architecture.max_context()).min(configured)
    }

    fn check(&self, header: &Header) -> Result<(), ShapeError> {
        let Self { hidden, feed_forward, heads, kv_heads, head_dim, vocab, .. } = *self;
        if !heads.is_multiple_of(kv_heads)
            || !head_dim.is_multiple_of(2)
            || head_dim == 0
            || head_dim > MAX_COUNT
        {
            let text = format!("{heads} heads, {kv_heads} for keys and values, of {head_dim} dimensions");
            return Err(inconsistent(text).into());
        }
        if self.trained_context == 0 || self.trained_context > 1 << 24 {
            return Err(inconsistent(format!("a context of {} tokens", self.trained_context)).into());
        }
        if self.architecture != Architecture::Qwen3 && heads * head_dim != hidden {
            // candle takes the width of a head to be hidden / heads there.
            let name = self.architecture.name();
            return Err(ShapeError::Unsupported(format!("{name} with heads of {head_dim} dimensions")));
        }
        let rotary = format!("{}.rope.dimension_count", self.architecture.name());
        if header.optional_number(&rotary)?.is_some_and(|dimensions| dimensions != head_dim) {
            let name = self.architecture.name();
            return Err(ShapeError::Unsupported(format!("{name} with partly rotated heads")));
        }
        let tokens = header.texts("tokenizer.ggml.tokens")?.len() as u64;
        if tokens > vocab {
            return Err(inconsistent(format!("{tokens} tokens, but embeddings for {vocab}")).into());
        }
        let mut used = BTreeSet::new();
        let mut expect = |name: &str, dims: &[u64]| -> Result<(), GgufError> {
            used.insert(name.to_owned());
            let tensor =
                header.tensors.get(name).ok_or_else(|| GgufError::Missing(format!("tensor {name}")))?;
            if tensor.dims == dims {
                return Ok(());
            }
            Err(GgufError::Shape { name: name.to_owned(), dims: tensor.dims.clone() })
        };
        expect("token_embd.weight", &[hidden, vocab])?;
        expect("output_norm.weight", &[hidden])?;
        if header.tensors.contains_key("output.weight") {
            expect("output.weight", &[hidden, vocab])?;
        }
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        for layer in 0..self.layers {
            let of = |part: &str| format!("blk.{layer}.{part}");
            expect(&of("attn_norm.weight"), &[hidden])?;
            expect(&of("attn_q.weight"), &[hidden, queries])?;
            expect(&of("attn_k.weight"), &[hidden, keys])?;
            expect(&of("attn_v.weight"), &[hidden, keys])?;
            expect(&of("attn_output.weight"), &[queries, hidden])?;
            expect(&of("ffn_norm.weight"), &[hidden])?;
            expect(&of("ffn_gate.weight"), &[hidden, feed_forward])?;
            expect(&of("ffn_up.weight"), &[hidden, feed_forward])?;
            expect(&of("ffn_down.weight"), &[feed_forward, hidden])?;
            if self.architecture.has_qkv_bias() {
                expect(&of("attn_q.bias"), &[queries])?;
                expect(&of("attn_k.bias"), &[keys])?;
                expect(&of("attn_v.bias"), &[keys])?;
            }
            if self.architecture.has_qk_norm() {
                expect(&of("attn_q_norm.weight"), &[head_dim])?;
                expect(&of("attn_k_norm.weight"), &[head_dim])?;
            }
        }
        // A tensor that the forward passes over changes what the model says: llama with biases, or with
        // rope_freqs, by which Llama 3.1 and later stretch their rotary frequencies.
        if let Some(other) = header.tensors.keys().find(|name| !used.contains(*name)) {
            let name = self.architecture.name();
            return Err(ShapeError::Unsupported(format!("{name} with the tensor {other}")));
        }
        Ok(())
    }
}

/// Variants that candle would run without a word, and wrongly.
fn refuse_variants(header: &Header, architecture: Architecture) -> Result<(), ShapeError> {
    let name = architecture.name();
    let unsupported = |what: &str| Err(ShapeError::Unsupported(format!("{name} with {what}")));
    if header.optional_number(&format!("{name}.expert_count"))?.unwrap_or(0) > 1 {
        return unsupported("experts");
    }
    // Either key stretches positions, also where no type is named; 0 and 1 are how files say "not at all".
    for key in ["rope.scale_linear", "rope.scaling.factor"] {
        let factor = header.optional_float(&format!("{name}.{key}"))?;
        if factor.is_some_and(|factor| factor != 0.0 && factor != 1.0) {
            return unsupported(key);
        }
    }
    match header.optional_text(&format!("{name}.rope.scaling.type"))? {
        None | Some("none") => Ok(()),
        Some(kind) => unsupported(&format!("rope scaling {kind:?}")),
    }
}

/// A float that may be absent, but not zero, negative or no number.
fn positive(header: &Header, key: &str) -> Result<Option<f64>, GgufError> {
    match header.optional_float(key)? {
        Some(x) if !(x.is_finite() && x > 0.0) => Err(inconsistent(format!("{key} = {x}"))),
        other => Ok(other),
    }
}

/// Columns and rows of a matrix.
fn matrix(header: &Header, name: &str) -> Result<(u64, u64), GgufError> {
    let tensor = header.tensors.get(name).ok_or_else(|| GgufError::Missing(format!("tensor {name}")))?;
    match tensor.dims[..] {
        [columns, rows] => Ok((columns, rows)),
        _ => Err(GgufError::Shape { name: name.to_owned(), dims: tensor.dims.clone() }),
    }
}

fn inconsistent(text: String) -> GgufError {
    GgufError::Inconsistent(format!("its header claims {text}"))
}
