//! Floats to panels: quantised while they are loaded.
//!
//! A group's scale (and minimum) is the one of a few that leaves the least squared error, larger weights counting
//! more; each candidate is refined by least squares over the values that it rounds to. That is how files are
//! quantised too; what they round again to fit scales into six bits stays here a half.

use std::io;

use half::f16;

use super::{BLOCK, Layout, QuantMatrix, pack::Decoded};
use crate::{
    Pool,
    dense::Float,
    stored::{Order, Rows, Stored},
};

/// What floats become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Q4K,
    Q5K,
    Q6K,
    Q8_0,
}

impl Target {
    /// All of them, fewest bits first.
    pub const ALL: [Self; 4] = [Self::Q4K, Self::Q5K, Self::Q6K, Self::Q8_0];

    /// As requests call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4K => "q4k",
            Self::Q5K => "q5k",
            Self::Q6K => "q6k",
            Self::Q8_0 => "q8_0",
        }
    }

    /// How its values are held.
    pub fn layout(self) -> Layout {
        match self {
            Self::Q4K => Layout::Q4_MIN,
            Self::Q5K => Layout::Q5_MIN,
            Self::Q6K => Layout::Q6_16,
            Self::Q8_0 => Layout::Q8,
        }
    }

    /// A matrix with so many columns can be held so.
    pub fn takes(self, columns: u64) -> bool {
        columns.is_multiple_of(BLOCK as u64)
    }
}

impl QuantMatrix {
    /// Quantises a `[rows, columns]` matrix of floats as it lies in a file. Errors where it cannot be read.
    ///
    /// Panics where `stored` is not exactly the matrix, or `target` does not take its columns.
    pub fn quantise(
        pool: &mut Pool,
        target: Target,
        float: Float,
        rows: usize,
        columns: usize,
        stored: &dyn Stored,
        order: Order,
    ) -> io::Result<Self> {
        assert!(target.takes(columns as u64), "{columns} columns as {target:?}");
        let layout = target.layout();
        let rows = Rows { stored, count: rows, row_len: columns * float.bytes(), order };
        Self::filled(pool, layout, columns, rows, |row, bytes, out| {
            let (mut floats, mut decoded) = ([0.0; BLOCK], Decoded::default());
            for (block, out) in out.chunks_exact_mut(layout.record()).enumerate() {
                float.widen(bytes, block * BLOCK, &mut floats);
                quantise(layout, &floats, &mut decoded);
                decoded.put(layout, 1, row, out);
            }
        })
    }
}

/// A record's values of one row.
pub(super) fn quantise(layout: Layout, floats: &[f32; BLOCK], decoded: &mut Decoded) {
    for (group, x) in floats.chunks_exact(layout.group).enumerate() {
        let fit = if layout.min { with_minimum(layout, x) } else { symmetric(layout, x) };
        let half = |x: f32| f16::from_f32(x).to_bits();
        (decoded.scales[group], decoded.mins[group]) = (half(fit.scale), half(fit.min));
        let values = &mut decoded.values[group * layout.group..];
        values.iter_mut().zip(x).for_each(|(q, x)| *q = fit.round(layout, *x));
    }
}

/// x = scale * q + min; both are halves.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    /// Of formats without one, -offset * scale.
    min: f32,
}

impl Fit {
    fn round(self, layout: Layout, x: f32) -> u8 {
        let most = ((1u32 << layout.bits) - 1) as f32;
        if self.scale == 0.0 {
            return layout.offset;
        }
        // A float that is no number becomes 0.
        ((x - self.min) / self.scale).round().clamp(0.0, most) as u8
    }

    /// As it is stored: halves.
    fn halved(self, layout: Layout) -> Self {
        let half = |x: f32| f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32())).to_f32();
        let scale = half(self.scale);
        let min = if layout.min { half(self.min) } else { -scale * f32::from(layout.offset) };
        Self { scale, min }
    }

    fn error(self, layout: Layout, x: &[f32]) -> f32 {
        let off = |x: f32| x - (self.scale * f32::from(self.round(layout, x)) + self.min);
        x.iter().map(|x| weight(*x) * off(*x) * off(*x)).sum()
    }
}

/// What an error in a weight counts: its products are as large as it is.
fn weight(x: f32) -> f32 {
    x.abs() + f32::MIN_POSITIVE
}

/// Candidates, each of which the next is tried against.
struct Best<'a> {
    layout: Layout,
    x: &'a [f32],
    fit: Fit,
    error: f32,
}

impl<'a> Best<'a> {
    fn new(layout: Layout, x: &'a [f32], first: Fit) -> Self {
        let fit = first.halved(layout);
        Self { layout, x, fit, error: fit.error(layout, x) }
    }

    fn try_one(&mut self, fit: Fit) {
        let fit = fit.halved(self.layout);
        let error = fit.error(self.layout, self.x);
        if error < self.error {
            (self.fit, self.error) = (fit, error);
        }
    }
}

/// x = scale * (q - offset): the value that is the largest without its sign gets the end of the range that has
/// one step more.
fn symmetric(layout: Layout, x: &[f32]) -> Fit {
    let largest = x.iter().copied().fold(0.0f32, |most, x| if x.abs() > most.abs() { x } else { most });
    let offset = f32::from(layout.offset);
    let of = |scale: f32| Fit { scale, min: -offset * scale };
    let mut best = Best::new(layout, x, of(largest / -offset));
    if layout.bits == 8 {
        // Steps this fine are best where the largest has a value of its own, on either side.
        best.try_one(of(largest.abs() / (offset - 1.0)));
        return best.fit;
    }
    for step in -4..=4i8 {
        let rough = of(largest / -(offset + f32::from(step) * 0.4)).halved(layout);
        let (mut products, mut squares) = (0.0, 0.0);
        for x in x {
            let q = f32::from(rough.round(layout, *x)) - offset;
            products += weight(*x) * q * x;
            squares += weight(*x) * q * q;
        }
        if squares > 0.0 {
            best.try_one(of(products / squares));
        }
    }
    best.fit
}

/// x = scale * q + minimum.
fn with_minimum(layout: Layout, x: &[f32]) -> Fit {
    let most = ((1u32 << layout.bits) - 1) as f32;
    let (low, high) = x.iter().fold((f32::MAX, f32::MIN), |(low, high), x| (low.min(*x), high.max(*x)));
    let first = Fit { scale: (high - low) / most, min: low };
    let mut best = Best::new(layout, x, first);
    for step in -2..=6i8 {
        let scale = (high - low) / (most - f32::from(step) * 0.15);
        let rough = Fit { scale, min: low + (high - low - scale * most) / 2.0 };
        // The line through what it rounds to that is nearest to the floats.
        let [mut sum, mut sum_q, mut sum_x, mut sum_qq, mut sum_qx] = [0.0f32; 5];
        for x in x {
            let (q, w) = (f32::from(rough.round(layout, *x)), weight(*x));
            sum += w;
            sum_q += w * q;
            sum_x += w * x;
            sum_qq += w * q * q;
            sum_qx += w * q * x;
        }
        let spread = sum * sum_qq - sum_q * sum_q;
        if spread > 0.0 {
            let scale = (sum * sum_qx - sum_q * sum_x) / spread;
            best.try_one(Fit { scale, min: (sum_x - scale * sum_q) / sum });
        }
    }
    best.fit
}

#[cfg(test)]
mod tests {
    use candle_core::{
        Device, Tensor,
        quantized::{GgmlDType, QTensor},
    };

    use super::*;

    /// A sum of three makes them about as unevenly spread as weights are.
    fn weights(n: usize) -> Vec<f32> {
        let mut random = 7u32;
        let mut next = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| (next() + next() + next()) * next() * 0.2).collect()
    }

    fn error(ours: &[f32], theirs: &[f32]) -> f64 {
        let square = |x: f64| x * x;
        let off: f64 = ours.iter().zip(theirs).map(|(a, b)| square(f64::from(a - b))).sum();
        (off / theirs.iter().map(|x| square(f64::from(*x))).sum::<f64>()).sqrt()
    }

    /// What comes out is as near to the floats as what candle quantises them to, and nearer where it rounds scales.
    #[test]
    fn it_is_as_near_as_a_quantised_file() {
        let (rows, columns) = (24, 512);
        let floats = weights(rows * columns);
        let bytes: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut pool = Pool::new("test", 2).unwrap();
        let theirs = [GgmlDType::Q4K, GgmlDType::Q5K, GgmlDType::Q6K, GgmlDType::Q8_0];
        let mut errors = Vec::new();
        for (target, dtype) in Target::ALL.into_iter().zip(theirs) {
            let order = Order::Unpaired { head: 12 };
            let packed =
                QuantMatrix::quantise(&mut pool, target, Float::F32, rows, columns, &bytes, order).unwrap();
            assert_eq!(packed.bytes() as u64, target.layout().packed_bytes(rows as u64, columns as u64));
            let mut ours = vec![0.0; rows * columns];
            for row in 0..rows {
                packed.row(row, &mut ours[order.from(row) * columns..][..columns]);
            }
            let tensor = Tensor::from_slice(&floats, (rows, columns), &Device::Cpu).unwrap();
            let theirs = QTensor::quantize(&tensor, dtype).unwrap().dequantize(&Device::Cpu).unwrap();
            let theirs: Vec<f32> = theirs.flatten_all().unwrap().to_vec1().unwrap();
            let (ours, theirs) = (error(&ours, &floats), error(&theirs, &floats));
            assert!(ours < theirs * 1.01, "{target:?}: {ours} {theirs}");
            errors.push(ours);
        }
        assert!(errors.is_sorted_by(|more, fewer| more > fewer), "{errors:?}");
    }

    #[test]
    fn what_has_no_scale_is_held_all_the_same() {
        let mut pool = Pool::new("test", 1).unwrap();
        for value in [0.0, 0.75, -3.5, f32::NAN, 1e30, -1e-30] {
            let bytes: Vec<u8> = [value; 64].iter().flat_map(|x| x.to_le_bytes()).collect();
            for target in Target::ALL {
                let packed =
                    QuantMatrix::quantise(&mut pool, target, Float::F32, 1, 64, &bytes, Order::Stored)
                        .unwrap();
                let mut row = [1.0; 64];
                packed.row(0, &mut row);
                assert!(row.iter().all(|x| x.is_finite()), "{target:?} {value}: {row:?}");
                if value.abs() < 4.0 {
                    assert!(
                        row.iter().all(|x| (x - value).abs() <= value.abs() * 1e-2 + 1e-7),
                        "{target:?} {row:?}"
                    );
                }
            }
        }
    }
}
