//! neuron's own decoder on a GPU: the same batches, blocks and models as on the CPU, by the kernels of `neuron-cuda`.
//!
//! All memory is taken when a model is loaded. A step uploads what it is about (tokens, positions, blocks) in one copy, and
//! what then runs depends on numbers of tokens alone: steps of one token a sequence are recorded once and run again as a
//! whole.

mod experts;
mod layer;
mod load;
mod others;
mod park;
mod plan;
mod step;

use std::{collections::HashMap, time::Instant};

use neuron_cuda::{Buffer, Device, Error, ErrorKind, HostBuffer, Matrix, Recording, Shelf, Shelved, ops::Kv};

use super::{
    Backend, Batch, Blueprint, CpuBackend, Limits, Logits, Lost, Model, ModelError, Room, Shape, Shard,
    Weights,
};
use layer::Layer;
use others::Others;
use plan::Sizes;
pub(super) use plan::estimate;
pub(crate) use plan::refusal;
use step::{FIXED, Inputs, Step, Work};

/// Tokens in one forward at most.
pub(crate) const MAX_TOKENS: usize = 1024;
/// Rows of logits that are computed at once.
pub(crate) const LOGIT_ROWS: usize = super::MAX_SEQUENCES;
/// Positions of a block.
pub(crate) const BLOCK: usize = 16;

/// Loads onto a GPU, and what is not computed there onto the host.
pub struct GpuBackend {
    device: Device,
    /// Encoders and candle's models are computed by the host, and packing shares its threads.
    host: CpuBackend,
    options: GpuOptions,
    /// Where parked weights lie.
    shelf: Shelf,
}

/// What the configuration says of GPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GpuOptions {
    /// Pinned memory of the host that weights may be parked in, at most, of each.
    pub park_bytes: u64,
    /// Models in parts meet by NCCL where all of their devices can.
    pub nccl: bool,
}

struct GpuDecoder {
    device: Device,
    shape: Shape,
    kv: Kv,
    embeddings: Matrix,
    /// `None`: the embeddings.
    output: Option<Matrix>,
    output_norm: Buffer,
    layers: Vec<Layer>,
    /// Radians a position, of most layers and of those with a window.
    frequencies: [Buffer; 2],
    /// Keys and values of each layer; the last block is nobody's.
    cache: Vec<[Buffer; 2]>,
    inputs: Inputs,
    work: Work,
    /// Steps of so many sequences with one token each; `None`: it could not be recorded.
    recordings: HashMap<usize, Option<Recording>>,
    /// Steps of so many that have run as they are: what a recording may not ask for is there after it.
    warm: Vec<usize>,
    /// What logits are read to.
    host: HostBuffer,
    many: Vec<f32>,
    states: Vec<f32>,
    drawn: Vec<Option<u32>>,
    sequences: usize,
    others: Option<Others>,
    sizes: Sizes,
    shelf: Shelf,
    parked: Option<Shelved>,
    /// A buffer without bytes, in the place of what is parked.
    nothing: Buffer,
}

impl GpuBackend {
    /// `host`: how many threads pack weights, how keys and values are held, and how many sequences run at once.
    pub fn new(device: Device, host: CpuBackend, options: GpuOptions) -> Self {
        let shelf = Shelf::new(&device, options.park_bytes);
        Self { device, host, options, shelf }
    }

    fn decoder(
        &self,
        weights: &Weights,
        shape: &Shape,
        room: Room,
        shard: Option<Shard>,
    ) -> Result<Box<dyn Model>, ModelError> {
        let mut decoder = GpuDecoder::load(self, weights, shape, room)?;
        decoder.others =
            shard.map(|shard| Others::meet(&self.device, shard, self.options.nccl)).transpose()?;
        Ok(Box::new(decoder))
    }
}

impl Backend for GpuBackend {
    fn load(
        &mut self,
        weights: &Weights,
        plan: &Blueprint,
        room: Room,
    ) -> Result<Box<dyn Model>, ModelError> {
        match plan {
            Blueprint::Decoder(shape) => self.decoder(weights, shape, room, None),
            Blueprint::Encoder(_) | Blueprint::Candle(_) => self.host.load(weights, plan, room),
        }
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
        self.decoder(&weights, shape, room, Some(shard))
    }

    fn lost(&mut self) -> Option<Lost> {
        match self.device.synchronize() {
            // The driver may fail where anything of it is given back.
            Err(Error { kind: ErrorKind::Lost, text }) => Some(Lost { reason: text, may_drop: false }),
            _ => None,
        }
    }

    fn memory(&mut self) -> Option<(u64, u64)> {
        let memory = self.device.memory().ok()?;
        Some((memory.free, memory.total))
    }
}

impl Model for GpuDecoder {
    fn limits(&self) -> Limits {
        Limits {
            sequences: self.sequences,
            tokens: MAX_TOKENS,
            block: BLOCK,
            blocks: self.kv.blocks - 1,
            block_bytes: 2 * self.cache.len() * self.kv.bytes() / self.kv.blocks,
            every_row: true,
            whole: false,
            shares_blocks: true,
            draws: true,
        }
    }

    fn forward(&mut self, batch: &Batch<'_>) -> Result<Logits<'_>, ModelError> {
        if self.parked.is_some() {
            return Err(ModelError("the model is parked".to_owned()));
        }
        match self.compute(batch) {
            Ok(step) => self.read(&step, batch),
            Err(error) => {
                // Sums that others are in must not be waited for when this is dropped.
                if let Some(others) = &mut self.others {
                    others.abort();
                }
                Err(error)
            }
        }
    }

    fn abandon(&mut self) {
        if let Some(others) = &mut self.others {
            others.abort();
        }
    }

    fn replays(&mut self, count: usize) -> Option<Result<f64, ModelError>> {
        let recording = self.recordings.get(&1)?.as_ref()?;
        let run = || -> Result<f64, Error> {
            self.device.synchronize()?;
            let started = Instant::now();
            (0..count).try_for_each(|_| recording.replay())?;
            self.device.synchronize()?;
            Ok(started.elapsed().as_secs_f64())
        };
        Some(run().map_err(ModelError::from))
    }

    fn weights_bytes(&self) -> u64 {
        match &self.parked {
            Some(parked) => parked.len() as u64,
            None => self.all_matrices().into_iter().map(|matrix| matrix.bytes() as u64).sum(),
        }
    }

    fn park(&mut self) -> Result<bool, ModelError> {
        match self.others {
            Some(_) => Err(ModelError("a model in parts is not parked".to_owned())),
            None => self.park_now(),
        }
    }

    fn wake(&mut self) -> Result<(), ModelError> {
        self.wake_now()
    }
}

impl GpuDecoder {
    fn compute(&mut self, batch: &Batch<'_>) -> Result<Step, ModelError> {
        let step = self.begin(batch)?;
        self.run(&step)?;
        if let Some(others) = &mut self.others {
            others.wait()?;
        }
        Ok(step)
    }

    /// All that a step asks of the device, but for what is uploaded before and read after it.
    fn run(&mut self, step: &Step) -> Result<(), ModelError> {
        if !step.recordable || self.others.is_some() {
            return self.enqueue(step);
        }
        if let Some(recording) = self.recordings.get(&step.tokens) {
            return match recording {
                Some(recording) => Ok(recording.replay()?),
                None => self.enqueue(step),
            };
        }
        if !self.warm.contains(&step.tokens) {
            self.warm.push(step.tokens);
            return self.enqueue(step);
        }
        let device = self.device.clone();
        let mut failed = None;
        let recorded = device.record(|| {
            self.enqueue(step).map_err(|error| {
                failed = Some(error);
                Error { kind: ErrorKind::Failed, text: String::new() }
            })
        });
        match recorded {
            Ok(recording) => {
                recording.replay()?;
                self.recordings.insert(step.tokens, Some(recording));
                Ok(())
            }
            Err(error) => {
                let error = failed.unwrap_or_else(|| error.into());
                self.recordings.insert(step.tokens, None);
                tracing::warn!(%error, tokens = step.tokens, "a step could not be recorded, and runs kernel by kernel");
                self.enqueue(step)
            }
        }
    }
}

impl From<Error> for ModelError {
    fn from(error: Error) -> Self {
        Self(error.text)
    }
}

impl std::fmt::Debug for GpuBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GpuBackend")
    }
}
