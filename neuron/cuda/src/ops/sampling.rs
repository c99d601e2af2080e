use super::{int, words};
use crate::{Buffer, Device, Error};

/// How a token is drawn of a row of logits. The order is temperature, `min_p`, `top_k`, `top_p`; of equal logits the first
/// ones are kept.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// 0: the first of the largest.
    pub temperature: f32,
    /// 1: all.
    pub top_p: f32,
    /// 0: all.
    pub min_p: f32,
    /// A random number in [0, 1).
    pub unit: f32,
    /// 0: all.
    pub top_k: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SampleParams {
    logits: u64,
    draws: u64,
    tokens: u64,
    vocab: i32,
    unused: i32,
}

/// A token of each row of logits, `[rows, vocab]`, as the row's [`Draw`] says: integers, -1 where no logit is a number.
pub fn sample(
    device: &Device,
    logits: &Buffer,
    [rows, vocab]: [usize; 2],
    draws: &Buffer,
    tokens: &Buffer,
) -> Result<(), Error> {
    let params = SampleParams {
        logits: words(logits, rows * vocab),
        draws: draws.at(0, rows * size_of::<Draw>()),
        tokens: words(tokens, rows),
        vocab: int(vocab),
        unused: 0,
    };
    device.launch("sample", [rows, 1, 1], 512, &params)
}
