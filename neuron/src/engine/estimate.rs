//! How much memory a model will take, from its header alone.

use super::{
    Blueprint, Form, KvFormat, Room, Shape, Weights,
    decoder::{MAX_BATCH_TOKENS, MAX_SEQUENCES, kv_shape},
    gpu,
};

/// MiB kept free beside a model on the CPU, and on a GPU, where others may want some too.
const MARGIN_MB: u64 = 64;
const GPU_MARGIN_MB: u64 = 1024;

/// Bytes that a matrix takes beside what it holds: what is held of it by the allocator, on a page of its own.
const PAGE: u64 = 4096;
/// Bytes of an f32.
const F32: u64 = 4;
/// Bytes of an activation in 8 bits, its share of scales and sums included; rounded up.
const QUANTIZED: u64 = 2;

/// Memory of a model, MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// There from the load on.
    pub weights_mb: u64,
    /// Tokenizer and template, in the host's memory; there from the load on.
    pub text_mb: u64,
    /// Keys and values of all the tokens that may be cached.
    pub cache_mb: u64,
    /// The largest step.
    pub activations_mb: u64,
    /// It is a GPU's memory, all of it there from the load on; what the text side holds is not of it.
    pub on_gpu: bool,
}

/// What a GPU's memory is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnGpu {
    /// That run at once.
    pub sequences: usize,
    /// What the host has for models that are computed by it all the same, MiB.
    pub host_free_mb: u64,
}

impl Estimate {
    /// For `room` beside the weights. `text_bytes`: what the text side holds.
    pub fn new(
        weights: &Weights,
        plan: &Blueprint,
        text_bytes: u64,
        kv: KvFormat,
        room: Room,
        gpu: Option<OnGpu>,
    ) -> Self {
        let computing = match (plan, gpu) {
            (Blueprint::Decoder(shape), Some(OnGpu { sequences, .. })) => {
                gpu::estimate(weights, shape, kv, sequences, room)
            }
            (Blueprint::Decoder(shape), None) => Self::of_decoder(weights, shape, kv, room),
            (Blueprint::Encoder(form), _) => Self {
                weights_mb: mb(form.weights_bytes()),
                cache_mb: 0,
                text_mb: 0,
                activations_mb: mb(form.step_bytes(room.context, crate::config::cores())),
                on_gpu: false,
            },
            (Blueprint::Candle(form), _) => Self::of_candle(form, room),
        };
        Self { text_mb: mb(text_bytes), ..computing }
    }

    fn of_candle(form: &Form, room: Room) -> Self {
        Self {
            weights_mb: mb(form.weights_bytes),
            text_mb: 0,
            cache_mb: mb(form.position_bytes * room.cached),
            activations_mb: mb(form.step_bytes(room.context)),
            on_gpu: false,
        }
    }

    fn of_decoder(weights: &Weights, shape: &Shape, kv: KvFormat, room: Room) -> Self {
        let mut held = 0;
        for (name, dims) in shape.tensors() {
            let columns = dims[0];
            // Each expert is packed by itself.
            let (rows, experts) = (dims.get(1).copied().unwrap_or(1), dims.get(2).copied().unwrap_or(1));
            let Some(kind) = weights.kind(&name, rows, columns) else { continue };
            if dims.len() == 1 {
                held += columns * F32;
                continue;
            }
            held += (kind.packed_bytes(rows, columns) + PAGE) * experts;
        }
        let tokens = MAX_BATCH_TOKENS as u64;
        let heads = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
        let widest = shape.hidden.max(shape.heads * shape.head_dim).max(shape.feed_forward);
        let mut each = (2 * shape.hidden + heads + 2 * shape.feed_forward) * F32 + widest * (F32 + QUANTIZED);
        if let Some(experts) = shape.experts {
            // What the chosen experts take in, make and give out.
            let call = shape.hidden * (2 * F32 + QUANTIZED) + experts.feed_forward * (3 * F32 + QUANTIZED);
            each += experts.used * call + experts.count * F32;
        }
        let step = tokens * each + 2 * MAX_SEQUENCES as u64 * shape.vocab * F32;
        Self {
            weights_mb: mb(held),
            text_mb: 0,
            cache_mb: mb(room.cached.div_ceil(16) * kv_shape(shape, kv).block_bytes() as u64),
            activations_mb: mb(step),
            on_gpu: false,
        }
    }

    /// All of it, MiB.
    pub fn total_mb(&self) -> u64 {
        self.loaded_mb() + self.working_mb()
    }

    /// What is taken by the load, MiB.
    pub fn loaded_mb(&self) -> u64 {
        match self.on_gpu {
            true => self.weights_mb + self.cache_mb + self.activations_mb,
            false => self.weights_mb + self.text_mb,
        }
    }

    /// What is taken only as requests come, MiB.
    pub fn working_mb(&self) -> u64 {
        if self.on_gpu { 0 } else { self.cache_mb + self.activations_mb }
    }

    /// What is to stay free beside it, MiB.
    pub fn margin_mb(&self) -> u64 {
        if self.on_gpu { GPU_MARGIN_MB } else { MARGIN_MB }
    }
}

fn mb(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
