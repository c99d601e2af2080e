//! Names of kernels by what they are for: they are built of nothing at run time.

use neuron_kernels::dense::Float;

use super::KvFloat;
use crate::{Act, Format};

macro_rules! by_act {
    ($name:ident, $prefix:literal) => {
        pub(super) fn $name(act: Act) -> &'static str {
            match act {
                Act::F32 => concat!($prefix, "_f32"),
                Act::F16 => concat!($prefix, "_f16"),
                Act::BF16 => concat!($prefix, "_bf16"),
                Act::Q8 => concat!($prefix, "_q8"),
            }
        }
    };
}
by_act!(add_norm, "add_norm");
by_act!(gate_up, "gate_up");
by_act!(convert, "convert");
by_act!(merge, "merge");

pub(super) fn rope(kv: KvFloat) -> &'static str {
    match kv {
        KvFloat::F32 => "rope_f32",
        KvFloat::F16 => "rope_f16",
        KvFloat::BF16 => "rope_bf16",
        KvFloat::F8 => "rope_f8",
    }
}

/// A name for each width of heads that there is code for.
macro_rules! by_width {
    ($width:expr, $prefix:literal) => {
        match $width {
            ..=64 => concat!($prefix, "_64"),
            65..=128 => concat!($prefix, "_128"),
            _ => concat!($prefix, "_256"),
        }
    };
}

pub(super) fn decode(kv: KvFloat, dim: usize) -> &'static str {
    match kv {
        KvFloat::F32 => by_width!(dim, "decode_f32"),
        KvFloat::F16 => by_width!(dim, "decode_f16"),
        KvFloat::BF16 => by_width!(dim, "decode_bf16"),
        KvFloat::F8 => by_width!(dim, "decode_f8"),
    }
}

/// `None`: there is none, and tokens are to go one by one.
pub(super) fn prefill(kv: KvFloat, act: Act, dim: usize) -> Option<&'static str> {
    Some(match (kv, act) {
        (KvFloat::F16, Act::F32) => by_width!(dim, "prefill_f16_f32"),
        (KvFloat::F16, Act::F16) => by_width!(dim, "prefill_f16_f16"),
        (KvFloat::F16, Act::BF16) => by_width!(dim, "prefill_f16_bf16"),
        (KvFloat::BF16, Act::F32) => by_width!(dim, "prefill_bf16_f32"),
        (KvFloat::BF16, Act::F16) => by_width!(dim, "prefill_bf16_f16"),
        (KvFloat::BF16, Act::BF16) => by_width!(dim, "prefill_bf16_bf16"),
        (KvFloat::F8, Act::F32) => by_width!(dim, "prefill_f8_f32"),
        (KvFloat::F8, Act::F16) => by_width!(dim, "prefill_f8_f16"),
        (KvFloat::F8, Act::BF16) => by_width!(dim, "prefill_f8_bf16"),
        (KvFloat::F32, _) | (_, Act::Q8) => return None,
    })
}

/// A name for every format of matrices.
macro_rules! by_format {
    ($format:expr, $prefix:literal, $suffix:literal) => {
        match $format {
            Format::Float(Float::F32) => concat!($prefix, "_f32", $suffix),
            Format::Float(Float::F16) => concat!($prefix, "_f16", $suffix),
            Format::Float(Float::BF16) => concat!($prefix, "_bf16", $suffix),
            Format::Quant(layout) => match layout.name() {
                "q4" => concat!($prefix, "_q4", $suffix),
                "q4_min" => concat!($prefix, "_q4_min", $suffix),
                "q4_16" => concat!($prefix, "_q4_16", $suffix),
                "q4_16_min" => concat!($prefix, "_q4_16_min", $suffix),
                "q5" => concat!($prefix, "_q5", $suffix),
                "q5_min" => concat!($prefix, "_q5_min", $suffix),
                "q6_16" => concat!($prefix, "_q6_16", $suffix),
                _ => concat!($prefix, "_q8", $suffix),
            },
        }
    };
}

pub(super) fn embed(format: Format) -> &'static str {
    by_format!(format, "embed", "")
}

/// For the least number of rows at once that has them all, and that number.
pub(super) fn gemv(format: Format, batch: usize) -> (&'static str, usize) {
    match batch {
        ..=1 => (by_format!(format, "gemv", "_1"), 1),
        2 => (by_format!(format, "gemv", "_2"), 2),
        3..=4 => (by_format!(format, "gemv", "_4"), 4),
        _ => (by_format!(format, "gemv", "_8"), 8),
    }
}

/// A kernel, and the tokens and rows of a block.
pub(super) fn gemm(format: Format, tokens: usize) -> (&'static str, [usize; 2]) {
    match (format, tokens) {
        (Format::Float(Float::F32), _) => ("gemm_f32", [64, 64]),
        (_, ..=64) => (by_format!(format, "gemm", "_32"), [32, 128]),
        _ => (by_format!(format, "gemm", "_128"), [128, 128]),
    }
}
