//! A model's numbers, checked by building it of tensors that take no memory.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use serde_json::Value;

use super::{
    catalogue::{Entry, entry},
    config::Config,
    gguf,
    reader::{Asked, Reader, lock},
};
use crate::{
    engine::ShapeError,
    folder::{FolderError, Problem},
    gguf::Header,
    safetensors::{CONFIG, Safetensors},
};

/// Tokens of a conversation with a model whose description sets no bound.
const UNBOUNDED: u64 = 32 << 10;
/// Positions that a model may have learned one by one: candle keeps a mask of their square.
const MAX_LEARNED: u64 = 32 << 10;
/// Bytes of an F32.
const F32: u64 = 4;

/// A model that candle-transformers computes.
#[derive(Clone)]
pub struct Form {
    pub(super) name: &'static str,
    /// Tokens in one forward.
    pub(super) chunk: usize,
    pub(super) source: Source,
    /// Tokens that the model was made for, and can be given here.
    pub(crate) context: u64,
    pub(crate) vocab: u64,
    /// Bytes of the weights as they are held.
    pub(crate) weights_bytes: u64,
    /// Bytes that a token leaves behind.
    pub(crate) position_bytes: u64,
    /// Bytes of a step without its attention, and of its attention for every token of the context.
    pub(super) step_bytes: [u64; 2],
}

/// What it is built of.
#[derive(Clone)]
pub(super) enum Source {
    /// With the configuration as candle reads it. In F32.
    Safetensors(&'static Entry, Arc<Value>),
    Gguf(&'static gguf::Entry),
}

/// What a step's memory depends on.
pub(super) struct Steps {
    pub(super) chunk: usize,
    pub(super) hidden: u64,
    pub(super) heads: u64,
    pub(super) head_dim: u64,
    pub(super) feed_forward: u64,
    pub(super) vocab: u64,
}

impl Steps {
    /// Scores, their mask and their softmax; keys and values once for every head; what turns positions.
    pub(super) fn bytes(&self) -> [u64; 2] {
        let Self { chunk, hidden, heads, head_dim, feed_forward, vocab } = *self;
        let (chunk, widest) = (chunk as u64, (4 * hidden).max(heads * head_dim).max(feed_forward));
        [(chunk * 6 * widest + 2 * vocab) * F32, (chunk * heads * 3 + (4 * heads + 2) * head_dim) * F32]
    }
}

impl Form {
    /// `None`: nobody here computes such a model.
    pub(crate) fn from_header(header: &Header) -> Result<Option<Self>, ShapeError> {
        gguf::form(header)
    }

    /// `None`: nobody here computes such a model.
    pub(crate) fn from_safetensors(files: &Arc<Safetensors>) -> Result<Option<Self>, ShapeError> {
        let Some(entry) = entry(files.root().text("model_type")?) else { return Ok(None) };
        let Value::Object(mut map) = files.config().clone() else { return Ok(None) };
        let mut config = Config(&mut map);
        let unsupported = |what| ShapeError::Unsupported(format!("{} with {what}", entry.model_type));
        // What is computed with before, and what comes of it.
        config.check_bounds().map_err(|problem| problem.of(CONFIG))?;
        config.prepare().and_then(|()| (entry.prepare)(&mut config)).map_err(unsupported)?;
        config.check_bounds().map_err(|problem| problem.of(CONFIG))?;
        let learned =
            config.number("max_position_embeddings").filter(|_| entry.learns_positions).unwrap_or(0);
        if learned > MAX_LEARNED {
            let what = "max_position_embeddings";
            return Err(Problem::TooLarge { what, value: learned, max: MAX_LEARNED }.of(CONFIG).into());
        }
        let window = config.window();
        let config = Value::Object(map);
        let asked = build_without_memory(entry, files, &for_context(entry, &config, 1))?;
        // A tensor that the forward passes over changes what the model says.
        // A head that is tied is the embeddings, whether a file has it once more or not.
        let tied = config["tie_word_embeddings"] == true;
        let known = |name: &str| is_computed(name) || (tied && name == "lm_head.weight");
        let passed_over = |name: &&str| !asked.tensors.contains_key(*name) && !known(name);
        if let Some(other) = files.tensor_names().find(passed_over) {
            return Err(unsupported(format!("the tensor {other}")));
        }
        let number = |keys: &[&str]| keys.iter().find_map(|key| config.get(*key)?.as_u64()).unwrap_or(0);
        let heads = number(&["num_attention_heads"]).max(1);
        let kv_heads = match number(&["num_key_value_heads", "n_head_kv"]) {
            0 => heads,
            some => some,
        };
        let hidden = number(&["hidden_size", "d_model"]);
        let head_dim = (hidden / heads).max(number(&["head_dim"])).max(number(&["qk_head_dim"]));
        let (feed_forward, vocab) = (number(&["intermediate_size", "n_inner"]), number(&["vocab_size"]));
        let context = match number(&["max_position_embeddings", "max_seq_len"]) {
            0 => UNBOUNDED,
            some => some,
        };
        let layers = number(&["num_hidden_layers", "n_layer"]);
        let mut steps = Steps { chunk: entry.chunk, hidden, heads, head_dim, feed_forward, vocab }.bytes();
        // A mask of a byte for every two positions.
        steps[0] += learned * learned;
        let mut position_bytes = layers * 2 * kv_heads * head_dim * F32;
        if !entry.keeps_positions {
            // The state of every layer, before and after a token; none of them is wider.
            let state = number(&["state_size", "d_state"]).max(16) * number(&["expand"]).max(2) * hidden;
            steps = [steps[0] + 2 * layers * state * F32, 0];
            position_bytes = 0;
        }
        Ok(Some(Self {
            name: entry.model_type,
            chunk: entry.chunk,
            context: context.min(window.unwrap_or(u64::MAX)),
            vocab,
            weights_bytes: asked.tensors.values().map(|elements| elements * F32).sum(),
            position_bytes,
            step_bytes: steps,
            source: Source::Safetensors(entry, Arc::new(config)),
        }))
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Bytes of the largest step of a conversation of so many tokens.
    pub(crate) fn step_bytes(&self, context: u64) -> u64 {
        self.step_bytes[0] + self.step_bytes[1] * context
    }
}

/// The configuration for conversations of so many tokens: tables of positions are that long.
pub(super) fn for_context(entry: &Entry, config: &Value, context: u64) -> Value {
    let mut config = config.clone();
    for key in ["max_position_embeddings", "max_seq_len"] {
        if let Some(positions) = config.get_mut(key).filter(|_| !entry.learns_positions) {
            *positions = context.into();
        }
    }
    config
}

fn build_without_memory(
    entry: &Entry,
    files: &Arc<Safetensors>,
    config: &Value,
) -> Result<Asked, FolderError> {
    let (reader, asked) = Reader::checking(Arc::clone(files), entry.name);
    let built = catch_unwind(AssertUnwindSafe(|| (entry.build)(config, reader.builder()).map(drop)));
    let asked = std::mem::take(&mut *lock(&asked));
    let wrong = |text: String| asked.failed.clone().unwrap_or_else(|| Problem::Inconsistent(text).of(CONFIG));
    match built {
        Ok(Ok(())) => Ok(asked),
        Ok(Err(error)) => Err(wrong(error.to_string())),
        Err(_) => Err(wrong("its numbers do not fit together".to_owned())),
    }
}

/// Made from the configuration; older files have it all the same.
fn is_computed(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq") || name.ends_with("masked_bias") || name.ends_with("attn.bias")
}

impl std::fmt::Debug for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Form").field("name", &self.name).finish_non_exhaustive()
    }
}
