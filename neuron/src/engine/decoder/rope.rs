//! Rotary positions.

use neuron_kernels::attention::Span;

use crate::engine::{Shape, shape::Scaling};

/// Sines and cosines for the tokens of a batch: as they are for most layers, and for those with a window.
pub(super) struct Rotary {
    all: Angles,
    local: Option<Angles>,
}

pub(super) struct Angles {
    /// Radians a position, for each pair of dimensions.
    frequencies: Vec<f32>,
    /// [tokens, pairs]
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotary {
    /// `divisors`: of frequencies, from the model's own tensor.
    pub(super) fn new(shape: &Shape, divisors: Option<&[f32]>) -> Self {
        let mut all = Angles::new(shape.rope.base, shape.head_dim);
        match &shape.rope.scaling {
            Scaling::None => {}
            Scaling::Linear(factor) => all.frequencies.iter_mut().for_each(|f| *f /= factor),
            Scaling::Tensor => {
                let divisors = divisors.unwrap_or_default();
                all.frequencies.iter_mut().zip(divisors).for_each(|(f, divisor)| *f /= divisor);
            }
            Scaling::Llama3 { factor, low, high, original } => {
                all.frequencies.iter_mut().for_each(|f| *f = llama3(*f, *factor, *low, *high, *original));
            }
        }
        Self { all, local: shape.rope.local_base.map(|base| Angles::new(base, shape.head_dim)) }
    }

    /// For the positions of these tokens.
    pub(super) fn turn(&mut self, spans: &[Span<'_>]) {
        self.all.turn(spans);
        if let Some(local) = &mut self.local {
            local.turn(spans);
        }
    }

    /// `has_window`: of a layer that sees only the newest tokens.
    pub(super) fn angles(&self, has_window: bool) -> &Angles {
        self.local.as_ref().filter(|_| has_window).unwrap_or(&self.all)
    }
}

/// Radians a position, for each pair of dimensions: of most layers, and of those with a window.
pub(crate) fn frequencies(shape: &Shape, divisors: Option<&[f32]>) -> [Vec<f32>; 2] {
    let Rotary { all, local } = Rotary::new(shape, divisors);
    let local = local.map_or_else(|| all.frequencies.clone(), |local| local.frequencies);
    [all.frequencies, local]
}

/// As Llama 3.1's own code blends frequencies.
fn llama3(frequency: f32, factor: f32, low: f32, high: f32, original: f32) -> f32 {
    let length = std::f32::consts::TAU / frequency;
    if length < original / high {
        return frequency;
    }
    if length > original / low {
        return frequency / factor;
    }
    let smooth = (original / length - low) / (high - low);
    (1.0 - smooth) * frequency / factor + smooth * frequency
}

impl Angles {
    fn new(base: f32, head_dim: u64) -> Self {
        let exponent = |pair: u64| (2 * pair) as f32 / head_dim as f32;
        let frequencies = (0..head_dim / 2).map(|pair| 1.0 / base.powf(exponent(pair))).collect();
        Self { frequencies, cos: Vec::new(), sin: Vec::new() }
    }

    fn turn(&mut self, spans: &[Span<'_>]) {
        self.cos.clear();
        self.sin.clear();
        for span in spans {
            for position in span.position..span.position + span.len {
                for frequency in &self.frequencies {
                    let (sin, cos) = (position as f32 * frequency).sin_cos();
                    self.sin.push(sin);
                    self.cos.push(cos);
                }
            }
        }
    }

    /// Cosines and sines of a token, by pair of dimensions.
    pub(super) fn of(&self, token: usize) -> (&[f32], &[f32]) {
        let pairs = self.frequencies.len();
        let range = token * pairs..(token + 1) * pairs;
        (&self.cos[range.clone()], &self.sin[range])
    }
}
