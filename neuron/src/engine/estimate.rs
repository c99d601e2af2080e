//! How much memory a model will take, from its header alone.

use super::{Architecture, Shape};
use crate::gguf::{Header, TensorInfo};

/// MiB kept free beside a model on the CPU.
pub const MARGIN_MB: u64 = 64;

/// Bytes of an f32.
const F32: u64 = 4;
/// What candle's repacked copy of a matrix adds to the original, in tenths of it.
const REPACKED_TENTHS: u64 = 13;

/// Memory of a model, MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// There from the load on.
    pub weights_mb: u64,
    /// Keys and values of one sequence as long as the window.
    pub cache_mb: u64,
    /// The largest step.
    pub activations_mb: u64,
}

impl Estimate {
    /// For a window of `context` tokens filled in chunks of `chunk`.
    pub fn new(header: &Header, shape: &Shape, context: u64, chunk: u64) -> Self {
        let weights: u64 = header.tensors.iter().map(|(name, tensor)| resident(name, tensor)).sum();
        let tied = !header.tensors.contains_key("output.weight");
        let output = header.tensors.get("token_embd.weight").filter(|_| tied).map_or(0, matrix_bytes);

        // Sines and cosines for every position.
        let rotary = context * shape.head_dim * F32;
        let cache = cached_positions(shape.architecture, context) * shape.layers * keys_and_values(shape);
        // The feed-forward's three, and one row of logits.
        let feed_forward = 3 * chunk * shape.feed_forward * F32 + 2 * shape.vocab * F32;
        let activations =
            attention(shape, context, chunk) + masks(shape.architecture, context) + feed_forward;
        Self {
            weights_mb: mb(weights + output + rotary),
            cache_mb: mb(cache),
            activations_mb: mb(activations),
        }
    }

    /// All of it, MiB.
    pub fn total_mb(&self) -> u64 {
        self.weights_mb + self.cache_mb + self.activations_mb
    }

    /// What is taken only while a request runs, MiB.
    pub fn working_mb(&self) -> u64 {
        self.cache_mb + self.activations_mb
    }
}

/// Bytes of one position's keys and values in one layer.
fn keys_and_values(shape: &Shape) -> u64 {
    2 * shape.kv_heads * shape.head_dim * F32
}

/// Positions for which candle holds keys and values when the window is full.
fn cached_positions(architecture: Architecture, context: u64) -> u64 {
    /// Positions that qwen3's second layout has room for from the start; then it doubles.
    const FIRST: u64 = 4096;
    match architecture {
        Architecture::Llama | Architecture::Qwen2 => context,
        // On the CPU they lie there twice, for prefill and for decode.
        Architecture::Qwen3 if context <= FIRST => 2 * context,
        Architecture::Qwen3 => context + context.next_power_of_two(),
    }
}

/// Bytes of one layer's attention over a full window.
fn attention(shape: &Shape, context: u64, chunk: u64) -> u64 {
    match shape.architecture {
        // Scores before and after the mask and after softmax; keys and values repeated for every head,
        // beside the joined old and new ones.
        Architecture::Llama | Architecture::Qwen2 => {
            let scores = 3 * shape.heads * chunk * context * F32;
            scores + 2 * (2 * shape.heads + shape.kv_heads) * shape.head_dim * context * F32
        }
        // A kernel of its own: no scores, nothing repeated; the joined keys and values and a copy of them.
        Architecture::Qwen3 => 2 * context * keys_and_values(shape),
    }
}

/// Bytes of the causal masks that candle keeps, one for every pair of chunk and position.
fn masks(architecture: Architecture, context: u64) -> u64 {
    match architecture {
        // Of one sequence: chunks of one length, each as long as the window so far.
        Architecture::Llama => context * context / 2,
        // Of all sequences: the same, and the six shorter chunks at every place, a quarter of the square each.
        Architecture::Qwen2 => 2 * context * context,
        Architecture::Qwen3 => 0,
    }
}

/// Bytes of a tensor once it is loaded.
fn resident(name: &str, tensor: &TensorInfo) -> u64 {
    let embedding = name == "token_embd.weight";
    if embedding || tensor.dims.len() < 2 { tensor.elements() * F32 } else { matrix_bytes(tensor) }
}

/// Bytes of a matrix that is multiplied with.
fn matrix_bytes(tensor: &TensorInfo) -> u64 {
    let bytes = tensor.bytes().unwrap_or(0);
    let fits_kernel = matches!(tensor.dims[..], [k, n] if k.is_multiple_of(256) && n.is_multiple_of(16));
    if tensor.format.is_float() {
        tensor.elements() * F32
    } else if tensor.format.is_repacked() && fits_kernel {
        bytes + bytes * REPACKED_TENTHS / 10
    } else {
        bytes
    }
}

fn mb(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
