//! What a model takes of a GPU's memory, and whether its kernels can compute it, from its header alone.

use neuron_cuda::{Act, Format, ops::GROUP};
use neuron_kernels::{dense::Float, quant::Recipe};

use super::{BLOCK, FIXED, LOGIT_ROWS, MAX_TOKENS, layer::kv_of};
use crate::engine::{Estimate, KvFormat, Room, Shape, Weights, weights::Kind};

/// What the driver rounds an allocation up to: large ones to its large pages, small ones share some.
const LARGE: u64 = 1 << 20;
const PAGE: u64 = 2 << 20;
const SMALL: u64 = 512;

impl Kind {
    pub(super) fn recipe(self) -> Recipe {
        match self {
            Self::Quant(source) => Recipe::Quant(source),
            Self::Float(float) => Recipe::Float(float),
            Self::InSitu(float, target) => Recipe::Fit(float, target),
        }
    }

    pub(crate) fn format(self) -> Format {
        match self {
            Self::Quant(source) => Format::Quant(source.layout()),
            Self::Float(float) => Format::Float(float),
            Self::InSitu(_, target) => Format::Quant(target.layout()),
        }
    }
}

/// The formats that a model's matrices are held in.
#[derive(Debug, Default)]
pub(super) struct Formats {
    f32: bool,
    f16: bool,
    bf16: bool,
    quant: bool,
}

impl Formats {
    pub(super) fn of(weights: &Weights, shape: &Shape) -> Self {
        let mut all = Self::default();
        for (name, dims) in shape.tensors() {
            let [columns, rows, ..] = dims[..] else { continue };
            match weights.kind(&name, rows, columns).map(Kind::format) {
                Some(Format::Float(Float::F32)) => all.f32 = true,
                Some(Format::Float(Float::F16)) => all.f16 = true,
                Some(Format::Float(Float::BF16)) => all.bf16 = true,
                Some(Format::Quant(_)) => all.quant = true,
                None => {}
            }
        }
        all
    }

    fn is_mixed(&self) -> bool {
        [self.f32, self.f16, self.bf16, self.quant].iter().filter(|there| **there).count() > 1
    }
}

/// Bytes of the memory of a step.
#[derive(Debug)]
pub(super) struct Sizes {
    pub(super) x: usize,
    pub(super) qkv: usize,
    pub(super) gate_up: usize,
    pub(super) parts: usize,
    pub(super) logits: usize,
    pub(super) scores: usize,
    pub(super) chosen: usize,
    pub(super) made: usize,
    /// By form.
    pub(super) inputs: [usize; 4],
    pub(super) groups: usize,
    /// Blocks of all sequences of a step.
    pub(super) entries: usize,
}

impl Sizes {
    pub(super) fn new(shape: &Shape, formats: &Formats, sequences: usize, room: Room) -> Self {
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let [hidden, heads, kv_heads, dim] =
            [shape.hidden, shape.heads, shape.kv_heads, shape.head_dim].map(size);
        let (vocab, context) = (size(shape.vocab), size(room.context));
        let (count, used, feed_forward) = match shape.experts {
            None => (0, 0, size(shape.feed_forward)),
            Some(experts) => (size(experts.count), size(experts.used), size(experts.feed_forward)),
        };
        let widest = hidden.max(heads * dim).max(feed_forward);
        let tokens = MAX_TOKENS;
        let rows = tokens * used.max(1);
        // What is multiplied with a matrix at most, as numbers.
        let most = (tokens * widest).max(rows * feed_forward);
        let few = match shape.experts {
            None => neuron_cuda::ops::FEW * widest,
            Some(_) => (tokens * hidden).max(rows * feed_forward).max(neuron_cuda::ops::FEW * widest),
        };
        let there = |there: bool, act: Act, numbers: usize| if there { act.bytes(numbers) } else { 0 };
        Self {
            x: tokens * hidden * 4,
            qkv: tokens * (heads + 2 * kv_heads) * dim * 4,
            gate_up: (rows * 2 * feed_forward).max(tokens * hidden) * 4,
            // As many parts as there are tokens, or as the device has room for at once.
            parts: tokens * heads * (dim + 2) * 4,
            logits: LOGIT_ROWS * vocab * 4,
            scores: tokens * count * 4,
            chosen: tokens * used * 4,
            made: if used > 0 { rows * hidden * 4 } else { 0 },
            inputs: [
                there(formats.f32 || formats.is_mixed(), Act::F32, most),
                there(formats.f16, Act::F16, most),
                there(formats.bf16 || formats.quant, Act::BF16, most),
                there(formats.quant, Act::Q8, few),
            ],
            groups: if formats.quant { few / 32 * GROUP } else { 0 },
            entries: 1 + sequences * context.div_ceil(BLOCK),
        }
    }

    fn all(&self) -> Vec<u64> {
        let Self { x, qkv, gate_up, parts, logits, scores, chosen, made, inputs, groups, entries } = self;
        let all = [*x, *x, *qkv, *gate_up, *parts, *logits, *scores, *chosen, *chosen, *made, *groups];
        // Draws and what is drawn are small.
        let all = all.iter().chain(inputs).chain([&0, &0, &0]);
        all.map(|bytes| *bytes as u64).chain([4 * (FIXED + entries) as u64]).collect()
    }
}

fn held(bytes: u64) -> u64 {
    if bytes >= LARGE { bytes.next_multiple_of(PAGE) } else { bytes.next_multiple_of(SMALL).max(SMALL) }
}

/// Memory of a model on a GPU. `sequences`: that run at once.
pub(crate) fn estimate(
    weights: &Weights,
    shape: &Shape,
    kv: KvFormat,
    sequences: usize,
    room: Room,
) -> Estimate {
    let mut all = 0;
    for (name, dims) in shape.tensors() {
        let [columns, rows, ..] = dims[..] else {
            all += held(dims[0] * 4);
            continue;
        };
        let Some(kind) = weights.kind(&name, rows, columns) else { continue };
        let experts = dims.get(2).copied().unwrap_or(1);
        all += kind
            .format()
            .row_bytes(usize::try_from(columns).unwrap_or(usize::MAX))
            .iter()
            .map(|bytes| held(*bytes as u64 * rows * experts))
            .sum::<u64>();
    }
    let blocks = usize::try_from(room.cached).unwrap_or(usize::MAX).div_ceil(BLOCK).saturating_add(1);
    let layer = held(kv_of(shape, kv.on_gpu(), blocks).bytes() as u64);
    let step: u64 =
        Sizes::new(shape, &Formats::of(weights, shape), sequences, room).all().into_iter().map(held).sum();
    let mb = |bytes: u64| bytes.div_ceil(1 << 20);
    Estimate {
        weights_mb: mb(all),
        text_mb: 0,
        cache_mb: mb(2 * shape.layers * layer),
        activations_mb: mb(step),
        on_gpu: true,
    }
}

/// Why the GPU's kernels cannot compute it; `None`: they can.
pub(crate) fn refusal(weights: &Weights, shape: &Shape, kv: KvFormat) -> Option<String> {
    let multiple = kv.on_gpu().dim_multiple() as u64;
    if !shape.head_dim.is_multiple_of(multiple) || shape.head_dim > 256 {
        return Some(format!(
            "its heads have {} dimensions, and on a GPU multiples of {multiple} up to 256 are computed with this kv_cache",
            shape.head_dim
        ));
    }
    for (name, dims) in shape.tensors() {
        let [columns, rows, ..] = dims[..] else { continue };
        let Some(kind) = weights.kind(&name, rows, columns) else { continue };
        let multiple = kind.format().columns_multiple() as u64;
        if !columns.is_multiple_of(multiple) {
            return Some(format!(
                "its tensor {name} has {columns} columns, and on a GPU multiples of {multiple} are computed"
            ));
        }
        // Of experts both are one matrix there.
        if let (Some(ups), 3) = (name.strip_suffix("ffn_gate_exps.weight"), dims.len()) {
            let up = weights.kind(&format!("{ups}ffn_up_exps.weight"), rows, columns);
            if up.map(Kind::format) != Some(kind.format()) {
                return Some(format!("its experts' gates are not held as their ups are, as in {name}"));
            }
        }
    }
    None
}
