//! What runs on a device's thread: models, their requests, which of them the next forward works for, and
//! sampling.
//!
//! Reading order: [`model`] is what the thread asks of a model; [`decoder`] is our own, and [`encoder`] for vectors; [`lane`] decides what
//! each forward works for, with [`queue`] and [`blocks`]; [`sequence`] is one request. Between steps the thread
//! looks at its controls, so loading, unloading and cancelling never wait for a whole answer.

mod architecture;
mod blocks;
mod blueprint;
mod candle;
mod decoder;
mod encoder;
mod estimate;
mod gpu;
mod guide;
mod lane;
mod model;
mod pooling;
mod queue;
mod sampler;
mod sequence;
mod shape;
mod shards;
mod thoughts;
mod weights;

pub use architecture::Architecture;
pub(crate) use blocks::{Changed, Mark};
pub use blueprint::Blueprint;
pub use candle::Form;
pub use decoder::{CpuBackend, KvFormat, MAX_SEQUENCES};
pub use encoder::EncoderForm;
pub(crate) use encoder::{Encoder, encoder_types};
pub use estimate::{Estimate, OnGpu};
pub(crate) use gpu::refusal as gpu_refusal;
pub use gpu::{GpuBackend, GpuOptions};
pub use guide::{Grammar, Guide, GuideThreads};
pub(crate) use lane::{Lane, Stepped};
pub use model::{Backend, Batch, Draw, Limits, Logits, Lost, Model, ModelError, Part, Room, Rows};
pub use pooling::Pooling;
pub use sampler::{Logprobs, Sampler, Sampling, Scratch};
pub(crate) use sequence::Sequence;
pub use sequence::{Event, Finish, Generation, Timings};
#[cfg(test)]
pub(crate) use shape::shape_for_tests;
pub(crate) use shape::{Rope, Scaling};
pub use shape::{Shape, ShapeError};
pub use shards::{Communicator, Loopback, Shard};
pub use thoughts::Thoughts;
pub use weights::Weights;
pub(crate) use weights::{Kind, Noise, Scales, StoredTensor};
