//! A decoder out of its files, a tensor at a time.

use neuron_cuda::ops::KvFloat;
use neuron_kernels::{
    Matrix, Order, Pool,
    dense::Float,
    kv::{KV_BLOCK, KvCache, KvShape},
};

use super::{
    Buffers, CpuBackend, Decoder, MAX_SEQUENCES,
    experts::{Expert, Experts},
    layer::{FeedForward, Layer, Projection},
    rope::Rotary,
};
use crate::engine::{Communicator, ModelError, Room, Shape, Weights, shape::Scaling, weights::Files};

/// How keys and values are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvFormat {
    #[default]
    F16,
    /// Twice the memory.
    F32,
    /// Half of it, on GPUs; elsewhere as [`Self::F16`].
    F8,
}

impl KvFormat {
    pub(crate) fn float(self) -> Float {
        match self {
            Self::F16 | Self::F8 => Float::F16,
            Self::F32 => Float::F32,
        }
    }

    pub(crate) fn on_gpu(self) -> KvFloat {
        match self {
            Self::F16 => KvFloat::F16,
            Self::F32 => KvFloat::F32,
            Self::F8 => KvFloat::F8,
        }
    }
}

/// Reads tensors of one model.
struct Reader<'a> {
    weights: &'a Weights,
    shape: &'a Shape,
    pool: &'a mut Pool,
}

impl Decoder {
    pub(super) fn load(
        backend: CpuBackend,
        weights: &Weights,
        shape: &Shape,
        room: Room,
        others: Option<Box<dyn Communicator>>,
    ) -> Result<Self, ModelError> {
        let threads = backend.threads.max(1);
        let mut pool = Pool::new("cpu-0", threads).map_err(|e| ModelError(format!("no thread: {e}")))?;
        let mut reader = Reader { weights, shape, pool: &mut pool };
        let embeddings = reader.matrix("token_embd.weight", None)?;
        let output = if shape.tied { None } else { Some(reader.matrix("output.weight", None)?) };
        let output_norm = reader.norm("output_norm.weight")?;
        let layers = (0..shape.layers).map(|layer| reader.layer(layer)).collect::<Result<Vec<_>, _>>()?;
        let divisors = match shape.rope.scaling {
            Scaling::Tensor => Some(reader.vector("rope_freqs.weight")?),
            _ => None,
        };
        let kv = kv_shape(shape, backend.kv);
        let blocks = usize::try_from(room.cached).unwrap_or(usize::MAX).div_ceil(KV_BLOCK);
        Ok(Self {
            rotary: Rotary::new(shape, divisors.as_deref()),
            cache: KvCache::new(kv, blocks),
            shape: shape.clone(),
            pool,
            embeddings,
            output,
            output_norm,
            layers,
            buffers: Buffers::default(),
            sequences: backend.sequences.clamp(1, MAX_SEQUENCES),
            others,
        })
    }
}

/// What the cache of such a model is made for.
pub(crate) fn kv_shape(shape: &Shape, kv: KvFormat) -> KvShape {
    KvShape {
        layers: shape.layers as usize,
        kv_heads: shape.kv_heads as usize,
        head_dim: shape.head_dim as usize,
        float: kv.float(),
    }
}

impl Reader<'_> {
    fn layer(&mut self, layer: u64) -> Result<Layer, ModelError> {
        let of = |part: &str| format!("blk.{layer}.{part}");
        let architecture = self.shape.architecture;
        let post = |reader: &mut Self, part: &str| {
            architecture.has_post_norms().then(|| reader.norm(&of(part))).transpose()
        };
        Ok(Layer {
            attention_norm: self.norm(&of("attn_norm.weight"))?,
            query: self.projection(&of("attn_q"), self.shape.heads)?,
            key: self.projection(&of("attn_k"), self.shape.kv_heads)?,
            value: self.projection(&of("attn_v"), 0)?,
            attention_out: self.matrix(&of("attn_output.weight"), None)?,
            attention_post_norm: post(self, "post_attention_norm.weight")?,
            feed_forward_norm: self.norm(&of("ffn_norm.weight"))?,
            feed_forward: self.feed_forward(layer)?,
            feed_forward_post_norm: post(self, "post_ffw_norm.weight")?,
            window: self.shape.window_of(layer).map(|window| window as usize),
        })
    }

    /// `heads`: those that are rotated; 0 for values.
    fn projection(&mut self, name: &str, heads: u64) -> Result<Projection, ModelError> {
        let architecture = self.shape.architecture;
        let paired = matches!(self.weights.files, Files::Gguf { .. }) && architecture.gguf_has_pairs();
        let order = match paired && heads > 0 {
            true => Order::Unpaired { head: self.shape.head_dim as usize },
            false => Order::Stored,
        };
        let matrix = self.weights.tensor(&format!("{name}.weight"), None)?.matrix(self.pool, order)?;
        let bias = architecture.has_qkv_bias().then(|| self.vector(&format!("{name}.bias"))).transpose()?;
        let normed = architecture.has_qk_norm() && heads > 0;
        let norm = normed.then(|| self.norm(&format!("{name}_norm.weight"))).transpose()?;
        Ok(Projection { matrix, bias, norm })
    }

    fn feed_forward(&mut self, layer: u64) -> Result<FeedForward, ModelError> {
        let of = |part: &str| format!("blk.{layer}.{part}.weight");
        let Some(experts) = self.shape.experts else {
            return Ok(FeedForward::Dense {
                gate: self.matrix(&of("ffn_gate"), None)?,
                up: self.matrix(&of("ffn_up"), None)?,
                down: self.matrix(&of("ffn_down"), None)?,
            });
        };
        let each = (0..experts.count).map(|expert| {
            Ok(Expert {
                gate: self.matrix(&of("ffn_gate_exps"), Some(expert))?,
                up: self.matrix(&of("ffn_up_exps"), Some(expert))?,
                down: self.matrix(&of("ffn_down_exps"), Some(expert))?,
            })
        });
        let each = each.collect::<Result<_, ModelError>>()?;
        let router = self.matrix(&of("ffn_gate_inp"), None)?;
        let (used, normalized) = (experts.used as usize, experts.normalized);
        Ok(FeedForward::Experts(Experts { router, each, used, normalized }))
    }

    fn matrix(&mut self, name: &str, expert: Option<u64>) -> Result<Matrix, ModelError> {
        self.weights.tensor(name, expert)?.matrix(self.pool, Order::Stored)
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        self.weights.tensor(name, None)?.floats()
    }

    fn norm(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let mut norm = self.vector(name)?;
        let as_converted = matches!(self.weights.files, Files::Gguf { .. });
        if self.shape.architecture.norms_lack_one() && !as_converted {
            norm.iter_mut().for_each(|weight| *weight += 1.0);
        }
        Ok(norm)
    }
}
