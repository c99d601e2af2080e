//! A model's numbers, checked by building it of tensors that take no memory.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use serde_json::Value;

use super::{
    catalogue::{Entry, entry},
    config::Config,
    reader::{Asked, Reader, lock},
};
use crate::{
    engine::ShapeError,
    folder::{FolderError, Problem},
    safetensors::{CONFIG, Safetensors},
};

/// Tokens of a conversation with a model whose description sets no bound.
const UNBOUNDED: u64 = 32 << 10;
/// Bytes of an F32.
const F32: u64 = 4;

/// A model that candle-transformers computes.
#[derive(Clone)]
pub struct Form {
    pub(super) entry: &'static Entry,
    /// As candle reads it.
    pub(super) config: Arc<Value>,
    /// Tokens that the model was made for, and can be given here.
    pub(crate) context: u64,
    pub(crate) vocab: u64,
    /// Bytes of the weights in F32.
    pub(crate) weights_bytes: u64,
    /// Bytes that a token leaves behind.
    pub(crate) position_bytes: u64,
    /// Bytes of a step without its attention, and of its attention for every token of the context.
    step_bytes: [u64; 2],
}

impl Form {
    /// `None`: nobody here computes such a model.
    pub(crate) fn from_safetensors(files: &Arc<Safetensors>) -> Result<Option<Self>, ShapeError> {
        let Some(entry) = entry(files.root().text("model_type")?) else { return Ok(None) };
        let Value::Object(mut map) = files.config().clone() else { return Ok(None) };
        let mut config = Config(&mut map);
        let unsupported = |what| ShapeError::Unsupported(format!("{} with {what}", entry.model_type));
        config.prepare().and_then(|()| (entry.prepare)(&mut config)).map_err(unsupported)?;
        let window = config.window();
        let config = Value::Object(map);
        let asked = build_without_memory(entry, files, &config)?;
        // A tensor that the forward passes over changes what the model says.
        if let Some(other) =
            files.tensor_names().find(|name| !asked.tensors.contains_key(*name) && !is_computed(name))
        {
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
        let layers = number(&["num_hidden_layers", "n_layer"]);
        let widest =
            hidden.max(heads * head_dim).max(number(&["intermediate_size", "n_inner"])).max(4 * hidden);
        let vocab = number(&["vocab_size"]);
        let context = match number(&["max_position_embeddings", "max_seq_len"]) {
            0 => UNBOUNDED,
            some => some,
        };
        let chunk = entry.chunk as u64;
        Ok(Some(Self {
            entry,
            context: context.min(window.unwrap_or(u64::MAX)),
            vocab,
            weights_bytes: asked.tensors.values().map(|elements| elements * F32).sum(),
            position_bytes: layers * 2 * kv_heads * head_dim * F32,
            // Scores, their mask and their softmax; keys and values once for every head.
            step_bytes: [
                (chunk * 6 * widest + 2 * vocab) * F32,
                (chunk * heads * 3 + 4 * heads * head_dim) * F32,
            ],
            config: Arc::new(config),
        }))
    }

    /// Bytes of the largest step of a conversation of so many tokens.
    pub(crate) fn step_bytes(&self, context: u64) -> u64 {
        self.step_bytes[0] + self.step_bytes[1] * context
    }

    pub(crate) fn model_type(&self) -> &'static str {
        self.entry.model_type
    }
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
        f.debug_struct("Form").field("model_type", &self.entry.model_type).finish_non_exhaustive()
    }
}
