//! The arithmetic of neuron's CPU device.
//!
//! Reading order: [`cpu`] says which instructions there are; [`quant`] and [`dense`] hold matrices as their
//! kernels want them ([`Stored`] is where they come from), and [`matrix`] shares their products out over the threads of [`pool`]; [`kv`] holds
//! keys and values in blocks, which [`attention`] goes over ([`texts`] where
//! every token of a text sees every other); [`ops`] is what lies between, and
//! [`logits`] what sampling asks of a whole vocabulary.
//!
//! One promise holds throughout: what comes out for a token depends on that token's own sequence and on
//! nothing else, to the last bit. How many others are in the batch, how a prompt was cut into chunks and how
//! many threads there are change nothing.

#![expect(
    unsafe_code,
    reason = "vector instructions and buffers that threads share; each use says why it is sound"
)]

mod acts;
mod aligned;
pub mod attention;
pub mod cpu;
pub mod dense;
pub mod kv;
pub mod logits;
pub mod matrix;
pub mod ops;
pub mod pool;
pub mod quant;
mod shared;
mod stored;
pub mod texts;

pub use matrix::{Input, Matrix, Product, each_row, multiply};
pub use pool::Pool;
pub use stored::{Order, Stored};
