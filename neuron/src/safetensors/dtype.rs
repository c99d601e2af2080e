//! Types of tensors by the names that safetensors has for them.

use neuron_kernels::dense::Float;

/// How a tensor's numbers are stored: a row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dtype(usize);

/// Name, bits a number.
const TABLE: &[(&str, u64)] = &[
    ("F32", 32),
    ("F16", 16),
    ("BF16", 16),
    // Known, so that a file that has them beside what is used can be read; none is computed with.
    ("F64", 64),
    ("C64", 64),
    ("I64", 64),
    ("U64", 64),
    ("I32", 32),
    ("U32", 32),
    ("I16", 16),
    ("U16", 16),
    ("I8", 8),
    ("U8", 8),
    ("BOOL", 8),
    ("F8_E4M3", 8),
    ("F8_E5M2", 8),
    ("F8_E8M0", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2FNUZ", 8),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("F4", 4),
];

impl Dtype {
    pub(super) fn by_name(name: &str) -> Option<Self> {
        TABLE.iter().position(|row| row.0 == name).map(Self)
    }

    pub(super) fn name(self) -> &'static str {
        TABLE[self.0].0
    }

    /// `None`: it is not computed with.
    pub(super) fn float(self) -> Option<Float> {
        match self.name() {
            "F32" => Some(Float::F32),
            "F16" => Some(Float::F16),
            "BF16" => Some(Float::BF16),
            _ => None,
        }
    }

    /// Bytes of so many numbers; `None` where they do not fill bytes, or are too many to count.
    pub(super) fn bytes(self, elements: u64) -> Option<u64> {
        let bits = elements.checked_mul(TABLE[self.0].1)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}
