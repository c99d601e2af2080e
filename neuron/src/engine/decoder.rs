//! neuron's own decoder on the CPU: many sequences in one packed batch, over blocks of keys and values.
//!
//! Every step works on all tokens of the batch, whoever's they are; only attention knows which belong
//! together. What comes out for a token depends on its own sequence alone, to the last bit.

mod experts;
mod layer;
mod load;
mod rope;

use neuron_kernels::{
    Input, Matrix, Pool, Product,
    attention::Span,
    kv::{KV_BLOCK, KvCache, Slot},
    multiply, ops,
};

use super::{
    Backend, Batch, Blueprint, Communicator, Encoder, Limits, Logits, Model, ModelError, Room, Rows, Shape,
    Shard, Weights, candle::Single,
};
use layer::Layer;
use rope::Rotary;

pub use load::KvFormat;
pub(crate) use load::kv_shape;
pub(crate) use rope::frequencies;

/// Tokens in one forward at most.
pub(crate) const MAX_BATCH_TOKENS: usize = 512;
/// Sequences in one forward at most: as many rows of logits are held.
pub const MAX_SEQUENCES: usize = 64;

/// Loads onto the CPU.
#[derive(Debug, Clone, Copy)]
pub struct CpuBackend {
    /// Threads that share a forward.
    pub threads: usize,
    /// How keys and values are held.
    pub kv: KvFormat,
    /// Sequences of a model that run at once; at most [`MAX_SEQUENCES`].
    pub sequences: usize,
}

struct Decoder {
    shape: Shape,
    pool: Pool,
    embeddings: Matrix,
    /// `None`: the embeddings.
    output: Option<Matrix>,
    output_norm: Vec<f32>,
    layers: Vec<Layer>,
    rotary: Rotary,
    cache: KvCache,
    buffers: Buffers,
    sequences: usize,
    /// Those that have the rest of the model.
    others: Option<Box<dyn Communicator>>,
}

/// Memory of a forward, used again by the next.
#[derive(Default)]
struct Buffers {
    /// The residual stream: [tokens, hidden]
    x: Vec<f32>,
    /// What is added to it, where that is normalised first: [tokens, hidden]
    added: Vec<f32>,
    /// What the next matrices are multiplied with.
    input: Input,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    slots: Vec<Slot>,
    experts: experts::Buffers,
    /// [sequences, vocab]
    logits: Vec<f32>,
    /// [tokens, hidden]
    states: Vec<f32>,
}

/// What every layer is told of the batch.
struct Step<'a> {
    tokens: usize,
    spans: &'a [Span<'a>],
}

impl Backend for CpuBackend {
    fn load(
        &mut self,
        weights: &Weights,
        plan: &Blueprint,
        room: Room,
    ) -> Result<Box<dyn Model>, ModelError> {
        Ok(match plan {
            Blueprint::Decoder(shape) => Box::new(Decoder::load(*self, weights, shape, room, None)?),
            Blueprint::Encoder(form) => Box::new(Encoder::load(self.threads, weights, form, room)?),
            Blueprint::Candle(form) => Box::new(Single::load(form, weights, room)?),
        })
    }

    fn load_shard(
        &mut self,
        weights: &Weights,
        plan: &Blueprint,
        room: Room,
        shard: Shard,
    ) -> Result<Box<dyn Model>, ModelError> {
        let Blueprint::Decoder(shape) = plan else {
            return Err(ModelError("only our own decoder is computed in parts".to_owned()));
        };
        let weights = weights.clone().sharded(shard.rank, shard.size);
        Ok(Box::new(Decoder::load(*self, &weights, shape, room, Some(shard.communicator))?))
    }
}

impl Model for Decoder {
    fn limits(&self) -> Limits {
        Limits {
            sequences: self.sequences,
            tokens: MAX_BATCH_TOKENS,
            block: KV_BLOCK,
            blocks: self.cache.blocks(),
            block_bytes: self.cache.block_bytes(),
            every_row: true,
            whole: false,
            shares_blocks: true,
            draws: false,
        }
    }

    fn forward(&mut self, batch: &Batch<'_>) -> Result<Logits<'_>, ModelError> {
        let mut first = 0;
        let spans: Vec<Span<'_>> = batch
            .parts
            .iter()
            .map(|part| {
                let span = Span { first, len: part.len, position: part.position, blocks: part.blocks };
                first += part.len;
                span
            })
            .collect();
        let step = Step { tokens: batch.tokens.len(), spans: &spans };
        self.embed(batch.tokens);
        self.place(&spans);
        self.rotary.turn(&spans);
        for index in 0..self.layers.len() {
            let Self { shape, pool, layers, rotary, cache, buffers, others, .. } = self;
            layers[index].attention(shape, pool, rotary, cache, index, buffers, &step, others)?;
            layers[index].feed_forward(shape, pool, buffers, &step, others)?;
        }
        self.states(batch);
        Ok(self.logits(batch))
    }

    fn abandon(&mut self) {
        if let Some(others) = &mut self.others {
            others.abort();
        }
    }

    fn weights_bytes(&self) -> u64 {
        let layers = self.layers.iter().flat_map(Layer::matrices);
        let all = layers.chain([&self.embeddings]).chain(&self.output);
        all.map(|matrix| matrix.bytes() as u64).sum()
    }
}

impl Decoder {
    fn embed(&mut self, tokens: &[u32]) {
        let hidden = self.shape.hidden as usize;
        let (embeddings, scale) = (&self.embeddings, self.shape.embedding_scale);
        self.buffers.x.resize(tokens.len() * hidden, 0.0);
        neuron_kernels::each_row(&mut self.pool, &mut self.buffers.x, hidden, |row, x| {
            embeddings.row(tokens[row] as usize, x);
            if scale != 1.0 {
                ops::scale(x, scale);
            }
        });
    }

    /// Where each token's keys and values go.
    fn place(&mut self, spans: &[Span<'_>]) {
        self.buffers.slots.clear();
        for span in spans {
            self.buffers.slots.extend((span.position..span.position + span.len).map(|position| Slot {
                block: span.blocks[position / KV_BLOCK],
                offset: (position % KV_BLOCK) as u32,
            }));
        }
    }

    /// The states that are wanted, as the head would have them.
    fn states(&mut self, batch: &Batch<'_>) {
        let hidden = self.shape.hidden as usize;
        let Buffers { x, states, .. } = &mut self.buffers;
        states.clear();
        let mut first = 0;
        for part in batch.parts {
            let rows = &x[first * hidden..(first + part.len) * hidden];
            first += part.len;
            if part.rows != Rows::States {
                continue;
            }
            let start = states.len();
            states.resize(start + rows.len(), 0.0);
            for (row, out) in rows.chunks_exact(hidden).zip(states[start..].chunks_exact_mut(hidden)) {
                ops::rms_norm(row, &self.output_norm, self.shape.epsilon, out);
            }
        }
    }

    fn logits(&mut self, batch: &Batch<'_>) -> Logits<'_> {
        let (hidden, vocab) = (self.shape.hidden as usize, self.shape.vocab as usize);
        let mut end = 0;
        let wanted: Vec<usize> = batch
            .parts
            .iter()
            .flat_map(|part| {
                end += part.len;
                end - part.wanted()..end
            })
            .collect();
        let Buffers { x, input, logits, states, .. } = &mut self.buffers;
        let matrix = self.output.as_ref().unwrap_or(&self.embeddings);
        // A rounded activation shows nowhere as it does here, and a second row costs no second read of the matrix.
        let twice = if matrix.rounds_input() { 2 } else { 1 };
        let rows = input.start(wanted.len() * twice, hidden);
        for (out, row) in rows.chunks_exact_mut(hidden * twice).zip(&wanted) {
            let (out, lost) = out.split_at_mut(hidden);
            ops::rms_norm(&x[row * hidden..(row + 1) * hidden], &self.output_norm, self.shape.epsilon, out);
            if !lost.is_empty() {
                ops::rounding(out, lost);
            }
        }
        input.ready(&mut self.pool, [matrix]);
        logits.resize(wanted.len() * twice * vocab, 0.0);
        multiply(&mut self.pool, &mut [Product::new(matrix, input, logits)]);
        if twice == 2 {
            for n in 0..wanted.len() {
                let (before, pair) = logits.split_at_mut(2 * n * vocab);
                let (rounded, lost) = pair.split_at_mut(vocab);
                ops::add(rounded, &lost[..vocab]);
                if n > 0 {
                    before[n * vocab..(n + 1) * vocab].copy_from_slice(rounded);
                }
            }
        }
        Logits { data: &mut logits[..wanted.len() * vocab], vocab, states, width: hidden, drawn: &[] }
    }
}
