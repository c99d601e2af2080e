//! A decoder out of a GGUF header.

use super::{Experts, Rope, Scaling, Shape, ShapeError, Window, inconsistent, positive};
use crate::{
    engine::Architecture,
    gguf::{GgufError, Header},
};

/// What the format's own library takes where a file does not say.
const ROPE_BASE: f64 = 10_000.0;
/// Gemma 3 has five layers with a window to each that sees everything.
const GEMMA3_ALL_EVERY: u64 = 6;
/// Gemma 3's largest model scales queries by another number than the width of a head.
const GEMMA3_LARGEST: u64 = 62;

impl Shape {
    /// Reads the numbers and checks every tensor that the forward will use.
    pub fn from_header(header: &Header) -> Result<Self, ShapeError> {
        let name = header.architecture()?;
        let architecture =
            Architecture::by_name(name).ok_or_else(|| ShapeError::Unsupported(name.to_owned()))?;
        refuse_variants(header, name)?;
        let number = |key: &str| header.number(&format!("{name}.{key}"));
        let optional = |key: &str| header.optional_number(&format!("{name}.{key}"));
        let float = |key: &str| {
            let key = format!("{name}.{key}");
            positive(&key, header.optional_float(&key)?)
        };

        let (heads, hidden, layers) =
            (number("attention.head_count")?, number("embedding_length")?, number("block_count")?);
        let head_dim = match optional("attention.key_length")? {
            Some(length) => length,
            None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(inconsistent(format!("{hidden} dimensions over {heads} heads")).into()),
        };
        let vocab = matrix(header, "token_embd.weight")?.1;
        let experts = experts(header, architecture)?;
        let epsilon = "attention.layer_norm_rms_epsilon";
        let epsilon = float(epsilon)?.ok_or_else(|| GgufError::Missing(format!("{name}.{epsilon}")))?;
        let gemma = architecture == Architecture::Gemma3;
        let window = match optional("attention.sliding_window")? {
            Some(tokens) if gemma && tokens > 0 => Some(Window { tokens, all_every: GEMMA3_ALL_EVERY }),
            _ => None,
        };
        let scaled_by = match gemma && layers == GEMMA3_LARGEST && heads > 0 {
            true => hidden / heads,
            false => head_dim,
        };
        let shape = Self {
            architecture,
            layers,
            hidden,
            feed_forward: if experts.is_some() { 0 } else { number("feed_forward_length")? },
            heads,
            kv_heads: number("attention.head_count_kv")?,
            head_dim,
            vocab,
            trained_context: number("context_length")?,
            epsilon: epsilon as f32,
            rope: Rope {
                base: float("rope.freq_base")?.unwrap_or(ROPE_BASE) as f32,
                scaling: scaling(header, name)?,
                local_base: gemma.then_some(float("rope.freq_base_swa")?.unwrap_or(ROPE_BASE) as f32),
            },
            experts,
            window,
            attention_scale: 1.0 / (scaled_by as f32).sqrt(),
            embedding_scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
            tied: !header.tensors.contains_key("output.weight"),
        };
        shape.check_numbers()?;
        shape.check_tensors(header)?;
        Ok(shape)
    }

    fn check_tensors(&self, header: &Header) -> Result<(), ShapeError> {
        let name = self.architecture.name();
        let rotary = format!("{name}.rope.dimension_count");
        if header.optional_number(&rotary)?.is_some_and(|dimensions| dimensions != self.head_dim) {
            return Err(ShapeError::Unsupported(format!("{name} with partly rotated heads")));
        }
        let values = format!("{name}.attention.value_length");
        if header.optional_number(&values)?.is_some_and(|length| length != self.head_dim) {
            return Err(ShapeError::Unsupported(format!("{name} with values of another length than keys")));
        }
        let tokens = header.texts("tokenizer.ggml.tokens")?.len() as u64;
        if tokens > self.vocab {
            return Err(inconsistent(format!("{tokens} tokens, but embeddings for {}", self.vocab)).into());
        }
        let expected = self.tensors();
        for (name, dims) in &expected {
            let tensor =
                header.tensors.get(name).ok_or_else(|| GgufError::Missing(format!("tensor {name}")))?;
            if tensor.dims != *dims {
                return Err(GgufError::Shape { name: name.clone(), dims: tensor.dims.clone() }.into());
            }
            // A row is whole blocks.
            if tensor.format.block().is_some_and(|(block, _)| !dims[0].is_multiple_of(block)) {
                return Err(GgufError::Shape { name: name.clone(), dims: tensor.dims.clone() }.into());
            }
        }
        // A tensor that the forward passes over changes what the model says: llama with biases, say.
        if let Some(other) = header.tensors.keys().find(|name| !expected.contains_key(*name)) {
            return Err(ShapeError::Unsupported(format!("{name} with the tensor {other}")));
        }
        Ok(())
    }
}

fn experts(header: &Header, architecture: Architecture) -> Result<Option<Experts>, ShapeError> {
    let name = architecture.name();
    let number = |key: &str| header.optional_number(&format!("{name}.{key}"));
    let count = number("expert_count")?.unwrap_or(0);
    if architecture != Architecture::Qwen3Moe {
        return match count {
            0 | 1 => Ok(None),
            _ => Err(ShapeError::Unsupported(format!("{name} with experts"))),
        };
    }
    let required = |key: &str| header.number(&format!("{name}.{key}"));
    Ok(Some(Experts {
        count: required("expert_count")?,
        used: required("expert_used_count")?,
        feed_forward: required("expert_feed_forward_length")?,
        normalized: true,
    }))
}

fn scaling(header: &Header, name: &str) -> Result<Scaling, ShapeError> {
    if header.tensors.contains_key("rope_freqs.weight") {
        return Ok(Scaling::Tensor);
    }
    let factor = match header.optional_float(&format!("{name}.rope.scaling.factor"))? {
        Some(factor) => Some(factor),
        None => header.optional_float(&format!("{name}.rope.scale_linear"))?,
    };
    // 0 and 1 are how files say "not at all".
    let factor = factor.filter(|factor| *factor != 0.0 && *factor != 1.0);
    let factor = positive("rope.scaling.factor", factor)?;
    match (header.optional_text(&format!("{name}.rope.scaling.type"))?, factor) {
        (None | Some("none" | "linear"), None) => Ok(Scaling::None),
        (None | Some("linear"), Some(factor)) => Ok(Scaling::Linear(factor as f32)),
        (Some(kind), _) => Err(ShapeError::Unsupported(format!("{name} with rope scaling {kind:?}"))),
    }
}

/// Variants that would run without a word, and wrongly.
fn refuse_variants(header: &Header, name: &str) -> Result<(), ShapeError> {
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        let key = format!("{name}.{key}");
        if header.optional_float(&key)?.is_some_and(|cap| cap != 0.0) {
            return Err(ShapeError::Unsupported(format!("{name} with {key}")));
        }
    }
    Ok(())
}

/// Columns and rows of a matrix.
fn matrix(header: &Header, name: &str) -> Result<(u64, u64), GgufError> {
    let tensor = header.tensors.get(name).ok_or_else(|| GgufError::Missing(format!("tensor {name}")))?;
    match tensor.dims[..] {
        [columns, rows] => Ok((columns, rows)),
        _ => Err(GgufError::Shape { name: name.to_owned(), dims: tensor.dims.clone() }),
    }
}
