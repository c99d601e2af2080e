//! An encoder's numbers and tensors, read off its files and held against each other.

use std::{collections::BTreeSet, sync::Arc};

use neuron_kernels::texts::{TextHeads, scratch_bytes};

use super::{
    GROUP, TOKENS,
    family::{FAMILIES, Family},
};
use crate::{
    engine::ShapeError,
    folder::{FolderError, Object, Problem},
    safetensors::{CONFIG, Safetensors},
};

/// No model has more layers, heads, dimensions or rows of a table; a larger number is damage.
const MAX_COUNT: u64 = 4096;
const MAX_WIDTH: u64 = 1 << 20;
const MAX_ROWS: u64 = 1 << 24;
/// Where config.json does not say: BERT's, and what its descendants kept.
const EPSILON: f32 = 1e-12;
/// Roberta's, where config.json does not say.
const PADDING: u64 = 1;
/// What encoders have in their files for other tasks.
const BESIDE: [&str; 6] = ["pooler.", "cls.", "lm_head.", "vocab_", "embeddings.position_ids", "qa_outputs."];
const F32: u64 = 4;

/// Between the two matrices of a feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Between {
    Gelu,
    GeluTanh,
    Relu,
}

/// An encoder, by its numbers.
#[derive(Debug, Clone)]
pub struct EncoderForm {
    pub(super) family: &'static Family,
    /// In front of every name of a tensor.
    pub(super) prefix: String,
    pub(super) layers: u64,
    pub(super) hidden: u64,
    pub(super) heads: u64,
    pub(super) feed_forward: u64,
    pub(super) vocab: u64,
    /// Rows of the table of positions, and which of them is a text's first.
    pub(super) positions: u64,
    pub(super) first_position: u64,
    pub(super) between: Between,
    pub(super) epsilon: f32,
    /// Bytes of the weights as they are held.
    pub(super) weights_bytes: u64,
}

impl EncoderForm {
    /// Reads the numbers and checks every tensor that a forward will use. `None`: it is no encoder of this kind.
    pub(crate) fn from_safetensors(files: &Arc<Safetensors>) -> Result<Option<Self>, ShapeError> {
        let config = files.root();
        let Some(family) = Family::of(config.text("model_type")?) else { return Ok(None) };
        refuse_variants(family, &config)?;
        let number = |key: &'static str, max| match bounded(&config, key, max)? {
            Some(number) if number > 0 => Ok(number),
            Some(_) => Err(config.inconsistent(format!("{key} is 0"))),
            None => Err(config.missing(key)),
        };
        let keys = family.keys;
        let (hidden, heads) = (number(keys.hidden, MAX_WIDTH)?, number(keys.heads, MAX_COUNT)?);
        if !hidden.is_multiple_of(heads) {
            return Err(config.inconsistent(format!("{hidden} dimensions over {heads} heads")).into());
        }
        let positions = number("max_position_embeddings", MAX_ROWS)?;
        let padding = bounded(&config, "pad_token_id", MAX_ROWS)?.unwrap_or(PADDING);
        let first_position = if family.positions_follow_padding { padding + 1 } else { 0 };
        if first_position >= positions {
            let text = format!("{positions} positions leave none after the padding's {padding}");
            return Err(config.inconsistent(text).into());
        }
        let prefix = family.prefix();
        let has_prefix = files.dims(&format!("{prefix}embeddings.word_embeddings.weight")).is_some();
        let mut form = Self {
            family,
            prefix: if has_prefix { prefix } else { String::new() },
            layers: number(keys.layers, MAX_COUNT)?,
            hidden,
            heads,
            feed_forward: number(keys.feed_forward, MAX_WIDTH)?,
            vocab: number("vocab_size", MAX_ROWS)?,
            positions,
            first_position,
            between: between(family, &config)?,
            epsilon: config.optional_positive("layer_norm_eps")?.unwrap_or(EPSILON),
            weights_bytes: 0,
        };
        form.check(files)?;
        Ok(Some(form))
    }

    pub(crate) fn name(&self) -> &'static str {
        self.family.model_type
    }

    /// Tokens of a text.
    pub(crate) fn context(&self) -> u64 {
        self.positions - self.first_position
    }

    pub(crate) fn vocab(&self) -> u64 {
        self.vocab
    }

    pub(crate) fn weights_bytes(&self) -> u64 {
        self.weights_bytes
    }

    /// Bytes of the largest step, with texts of so many tokens, on so many threads.
    pub(crate) fn step_bytes(&self, context: u64, threads: usize) -> u64 {
        // The stream, queries, keys, values, what attention saw, and between the wide matrices.
        let each = (5 * self.hidden + self.feed_forward) * F32;
        let states = (TOKENS as u64).max(context) * self.hidden * F32;
        let scratch = scratch_bytes(&self.text_heads(), usize::try_from(context).unwrap_or(usize::MAX));
        states + (GROUP as u64).max(context) * each + (scratch * threads) as u64
    }

    /// Numbers of a state.
    pub(super) fn width(&self) -> usize {
        usize::try_from(self.hidden).unwrap_or(usize::MAX)
    }

    pub(super) fn text_heads(&self) -> TextHeads {
        #[expect(clippy::cast_possible_truncation, reason = "bounded where they are read")]
        let (heads, head_dim) = (self.heads as usize, (self.hidden / self.heads) as usize);
        TextHeads { heads, head_dim, scale: (head_dim as f32).sqrt().recip() }
    }

    /// A part of a layer, without `weight` or `bias`.
    pub(super) fn part(&self, layer: u64, part: &str) -> String {
        format!("{}{}.{layer}.{part}", self.prefix, self.family.names.layers)
    }

    /// Every tensor of the forward is there as it should be, and there is none that it would pass over.
    fn check(&mut self, files: &Safetensors) -> Result<(), ShapeError> {
        let mut used = BTreeSet::new();
        let mut bytes = 0;
        let mut check = |name: String, dims: &[u64]| {
            let name = files.check_tensor(name, dims)?;
            // Vectors and positions are held as F32, matrices packed, words as they come: no more than packed.
            bytes += match dims {
                _ if name.ends_with("position_embeddings.weight") => self.positions * self.hidden * F32,
                [one] => one * F32,
                _ => files.packed_bytes(&name),
            };
            used.insert(name);
            Ok::<_, ShapeError>(())
        };
        let table = |name: &str| format!("{}embeddings.{name}.weight", self.prefix);
        check(table("word_embeddings"), &[self.vocab, self.hidden])?;
        check(table("position_embeddings"), &[self.positions, self.hidden])?;
        if self.family.has_kinds {
            let name = table("token_type_embeddings");
            // How many there are matters to nobody: the first one is added.
            let rows = files.dims(&name).and_then(|dims| dims.first().copied()).unwrap_or(0) as u64;
            check(name, &[rows.max(1), self.hidden])?;
        }
        let names = self.family.names;
        let mut norms = vec![format!("{}embeddings.LayerNorm", self.prefix)];
        let mut linears = Vec::new();
        for layer in 0..self.layers {
            let (hidden, wide) = (self.hidden, self.feed_forward);
            norms.extend([names.attention_norm, names.norm].map(|name| self.part(layer, name)));
            for name in [names.query, names.key, names.value, names.attention_out] {
                linears.push((self.part(layer, name), [hidden, hidden]));
            }
            linears.push((self.part(layer, names.up), [wide, hidden]));
            linears.push((self.part(layer, names.down), [hidden, wide]));
        }
        for (name, dims) in linears {
            check(format!("{name}.weight"), &dims)?;
            check(format!("{name}.bias"), &dims[..1])?;
        }
        for [weight, bias] in norms.iter().map(|name| norm_names(files, name)) {
            check(weight, &[self.hidden])?;
            check(bias, &[self.hidden])?;
        }
        let beside = |name: &str| {
            let bare = name.strip_prefix(self.family.prefix().as_str()).unwrap_or(name);
            BESIDE.iter().any(|part| bare.starts_with(part))
        };
        // A tensor that the forward passes over changes what the vectors are.
        if let Some(other) = files.tensor_names().find(|name| !used.contains(*name) && !beside(name)) {
            return Err(unsupported(self.family, &format!("the tensor {other}")));
        }
        self.weights_bytes = bytes;
        Ok(())
    }
}

/// Weight and bias of a norm; the oldest files name them after the letters of the paper.
pub(super) fn norm_names(files: &Safetensors, name: &str) -> [String; 2] {
    let names =
        if files.dims(&format!("{name}.gamma")).is_some() { ["gamma", "beta"] } else { ["weight", "bias"] };
    names.map(|part| format!("{name}.{part}"))
}

/// config.json's `model_type` of every encoder here.
pub(crate) fn encoder_types() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.model_type)
}

fn unsupported(family: &Family, what: &str) -> ShapeError {
    ShapeError::Unsupported(format!("{} with {what}", family.model_type))
}

fn bounded(config: &Object<'_>, key: &'static str, max: u64) -> Result<Option<u64>, FolderError> {
    match config.optional_number(key)? {
        Some(value) if value > max => Err(Problem::TooLarge { what: key, value, max }.of(CONFIG)),
        number => Ok(number),
    }
}

/// What would be computed otherwise.
fn refuse_variants(family: &Family, config: &Object<'_>) -> Result<(), ShapeError> {
    if let Some(other) = config.optional_text("position_embedding_type")?.filter(|kind| *kind != "absolute") {
        return Err(unsupported(family, &format!("position_embedding_type {other:?}")));
    }
    for key in ["is_decoder", "add_cross_attention"] {
        if config.optional_flag(key)? == Some(true) {
            return Err(unsupported(family, key));
        }
    }
    Ok(())
}

fn between(family: &Family, config: &Object<'_>) -> Result<Between, ShapeError> {
    match config.optional_text(family.keys.activation)?.unwrap_or("gelu") {
        "gelu" | "gelu_python" => Ok(Between::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Between::GeluTanh),
        "relu" => Ok(Between::Relu),
        other => Err(unsupported(family, &format!("the activation {other:?}"))),
    }
}
