//! The arithmetic of neuron's CUDA devices.
//!
//! Reading order: [`Device`] has memory ([`Buffer`]) and runs kernels (`kernels/*.cu`), on a GPU by NVIDIA's driver or, for tests, on
//! the host by an emulation of threads, warps and shared memory that runs the very same sources; [`ops`] are the
//! kernels with their shapes checked; [`Matrix`] is what weights become; [`discovery`] asks NVML what there is.
//!
//! NVIDIA's libraries are opened when they are asked for: the same binary runs where there are none.

#![expect(unsafe_code, reason = "the driver's and the emulation's functions; each use says why it is sound")]

mod buffer;
mod device;
pub mod discovery;
mod driver;
#[cfg(feature = "emulated")]
mod emulated;
mod gpu;
mod matrix;
pub mod ops;
mod ranks;
mod shelf;

pub use buffer::{Buffer, HostBuffer};
pub use device::{Device, Plain, Recording};
pub use driver::{Error, ErrorKind, Memory};
#[cfg(feature = "emulated")]
pub use emulated::Faults;
pub use gpu::{Found, compiled_for};
pub use matrix::{Act, Format, Matrix};
pub use ranks::{ID_BYTES, Ranks};
pub use shelf::{Shelf, Shelved};
