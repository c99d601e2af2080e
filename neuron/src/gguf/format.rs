//! Tensor formats by GGUF's numbers.

/// How a tensor's numbers are stored: GGUF's own number for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format(pub u32);

/// Number, name, elements a block, bytes a block. A zero block: known by name, not computed with
/// (Q8_1 and Q8_K are formats of intermediate results, not of weights).
type Row = (u32, &'static str, u64, u64);

const TABLE: &[Row] = &[
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 0, 0),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 0, 0),
    (16, "IQ2_XXS", 0, 0),
    (17, "IQ2_XS", 0, 0),
    (18, "IQ3_XXS", 0, 0),
    (19, "IQ1_S", 0, 0),
    (20, "IQ4_NL", 0, 0),
    (21, "IQ3_S", 0, 0),
    (22, "IQ2_S", 0, 0),
    (23, "IQ4_XS", 0, 0),
    (29, "IQ1_M", 0, 0),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 0, 0),
    (35, "TQ2_0", 0, 0),
    (39, "MXFP4", 0, 0),
];

impl Format {
    fn row(self) -> Option<&'static Row> {
        TABLE.iter().find(|row| row.0 == self.0)
    }

    /// As people write it, `"Q4_K"`; a format without a name here by its number.
    pub fn name(self) -> String {
        self.row().map_or_else(|| format!("number {}", self.0), |row| row.1.to_owned())
    }

    /// Elements and bytes of a block; `None` where neuron cannot compute with the format.
    pub fn block(self) -> Option<(u64, u64)> {
        self.row().filter(|row| row.2 > 0).map(|row| (row.2, row.3))
    }

    /// Stored as floats: candle widens these to F32 in memory.
    pub fn is_float(self) -> bool {
        matches!(self.0, 0 | 1 | 30)
    }

    /// candle keeps a second, repacked copy of these for its vector kernels.
    pub fn is_repacked(self) -> bool {
        matches!(self.0, 8 | 12 | 14)
    }
}
