//! What runs on a device's thread: models, sequences, the scheduler that picks the next step, and sampling.
//!
//! A step is one forward: a chunk of a prompt or one token. Between steps the thread looks at its
//! controls, so loading, unloading and cancelling never wait for a whole answer.

mod architecture;
mod candle;
mod estimate;
mod model;
mod sampler;
mod scheduler;
mod sequence;
mod shape;

pub use architecture::Architecture;
pub(crate) use candle::CHUNK;
pub use candle::CandleBackend;
pub use estimate::{Estimate, MARGIN_MB};
pub use model::{Backend, Model, ModelError};
pub use sampler::{Sampler, Sampling};
pub(crate) use scheduler::Scheduler;
pub(crate) use sequence::Sequence;
pub use sequence::{Event, Finish, Generation, Timings};
pub use shape::{Shape, ShapeError};
