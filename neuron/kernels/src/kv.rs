//! Keys and values of many sequences, in blocks of sixteen positions.
//!
//! A block holds its keys by dimension and its values by position, as the panels of [`crate::dense`], so
//! that attention multiplies with what lies in memory and writes no matrix of scores.

use half::{bf16, f16};

use crate::{
    Pool,
    dense::{Elements, Float, LANES, View},
    shared::Shared,
};

/// Positions of a block.
pub const KV_BLOCK: usize = LANES;

/// What a cache is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub float: Float,
}

impl KvShape {
    /// Bytes of a block in all layers.
    pub fn block_bytes(&self) -> usize {
        2 * self.layers * self.block_elements() * self.float.bytes()
    }

    /// Values are rows of whole panels.
    pub(crate) fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Keys or values of a head in a block.
    fn head_elements(&self) -> usize {
        KV_BLOCK * self.padded_dim()
    }

    fn block_elements(&self) -> usize {
        self.kv_heads * self.head_elements()
    }
}

/// The blocks of a model. Memory is taken from the system as blocks are written to.
pub struct KvCache {
    pub(crate) shape: KvShape,
    blocks: usize,
    /// For each layer: [blocks, kv_heads, head_dim, 16]
    keys: Vec<Elements>,
    /// For each layer: [blocks, kv_heads, 16, padded head_dim]
    values: Vec<Elements>,
}

/// Where one token's keys and values go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub block: u32,
    /// Below [`KV_BLOCK`].
    pub offset: u32,
}

impl KvCache {
    pub fn new(shape: KvShape, blocks: usize) -> Self {
        let zeros =
            || (0..shape.layers).map(|_| Elements::zeros(shape.float, blocks * shape.block_elements()));
        Self { shape, blocks, keys: zeros().collect(), values: zeros().collect() }
    }

    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Bytes of a block in all layers.
    pub fn block_bytes(&self) -> usize {
        self.shape.block_bytes()
    }

    pub(crate) fn keys(&self, layer: usize, block: usize, head: usize) -> View<'_> {
        self.keys[layer].view(self.at(block, head), self.shape.head_elements())
    }

    pub(crate) fn values(&self, layer: usize, block: usize, head: usize) -> View<'_> {
        self.values[layer].view(self.at(block, head), self.shape.head_elements())
    }

    fn at(&self, block: usize, head: usize) -> usize {
        (block * self.shape.kv_heads + head) * self.shape.head_elements()
    }

    /// Stores keys and values of tokens, both `[slots.len(), row]`: the first `kv_heads * head_dim` floats of
    /// each row. Sixteen-bit floats hold what is too large for them as their largest.
    pub fn store(
        &mut self,
        pool: &mut Pool,
        layer: usize,
        slots: &[Slot],
        keys: &[f32],
        values: &[f32],
        row: usize,
    ) {
        let shape = self.shape;
        let (dim, padded) = (shape.head_dim, shape.padded_dim());
        let (elements, heads) = (shape.head_elements(), shape.kv_heads);
        // A few tokens are written sooner than they are shared out.
        let tasks = if slots.len() * heads * dim < 8192 { 1 } else { heads };
        macro_rules! store {
            ($keys:expr, $values:expr, $narrow:expr) => {{
                let (key_out, value_out) = (Shared::new(&mut $keys[..]), Shared::new(&mut $values[..]));
                pool.run(tasks, |task| {
                    for head in (0..heads).filter(|head| head % tasks == task) {
                        for (n, slot) in slots.iter().enumerate() {
                            let at = (slot.block as usize * heads + head) * elements;
                            // SAFETY: a head's elements are written by one task alone, one slot at a time.
                            let (key_out, value_out) =
                                unsafe { (key_out.slice(at, elements), value_out.slice(at, elements)) };
                            let from = n * row + head * dim;
                            let offset = slot.offset as usize;
                            for (d, key) in keys[from..from + dim].iter().enumerate() {
                                key_out[d * KV_BLOCK + offset] = $narrow(*key);
                            }
                            let value_out = &mut value_out[offset * padded..][..dim];
                            for (out, value) in value_out.iter_mut().zip(&values[from..from + dim]) {
                                *out = $narrow(*value);
                            }
                        }
                    }
                });
            }};
        }
        match (&mut self.keys[layer], &mut self.values[layer]) {
            (Elements::F32(keys), Elements::F32(values)) => store!(keys, values, |x: f32| x),
            (Elements::F16(keys), Elements::F16(values)) => {
                store!(keys, values, |x: f32| { f16::from_f32(x.clamp(-65504.0, 65504.0)).to_bits() })
            }
            (Elements::BF16(keys), Elements::BF16(values)) => {
                store!(keys, values, |x: f32| bf16::from_f32(x).to_bits());
            }
            _ => unreachable!("keys and values are of one format"),
        }
    }
}

impl std::fmt::Debug for KvCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KvCache {} blocks of {:?}", self.blocks, self.shape)
    }
}
