//! A decoder onto a GPU, a tensor at a time, and of a tensor a piece at a time.

use std::{collections::HashMap, io};

use neuron_cuda::{Buffer, Device, Format, Matrix, ops};
use neuron_kernels::{Order, Pool, Stored, quant::Planes};

use super::{
    BLOCK, GpuBackend, GpuDecoder, LOGIT_ROWS,
    experts::Experts,
    layer::{FeedForward, Layer, Linear, kv_of},
    plan::{Formats, Sizes},
    step::{Inputs, Work},
};
use crate::engine::{
    MAX_SEQUENCES, ModelError, Room, Shape, Weights,
    decoder::frequencies,
    shape::Scaling,
    weights::{Files, StoredTensor},
};

/// Bytes of a tensor that are in the host's memory at once, about.
const PIECE: usize = 64 << 20;

/// Reads tensors of one model.
struct Reader<'a> {
    device: &'a Device,
    weights: &'a Weights,
    shape: &'a Shape,
    pool: &'a mut Pool,
}

/// Some rows of what is stored.
struct Piece<'a> {
    of: &'a StoredTensor,
    from: usize,
    len: usize,
}

impl Stored for Piece<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, from: usize, into: &mut [u8]) -> io::Result<()> {
        self.of.read(self.from + from, into)
    }
}

impl GpuDecoder {
    pub(super) fn load(
        backend: &GpuBackend,
        weights: &Weights,
        shape: &Shape,
        room: Room,
    ) -> Result<Self, ModelError> {
        let GpuBackend { device, host, shelf, .. } = backend;
        if let Some(refusal) = super::refusal(weights, shape, host.kv) {
            return Err(ModelError(refusal));
        }
        let threads = host.threads.max(1);
        let mut pool = Pool::new("gpu-load", threads).map_err(|e| ModelError(format!("no thread: {e}")))?;
        let mut reader = Reader { device, weights, shape, pool: &mut pool };
        let embeddings = reader.matrix("token_embd.weight", Order::Stored)?;
        let output = if shape.tied { None } else { Some(reader.matrix("output.weight", Order::Stored)?) };
        let output_norm = reader.norm("output_norm.weight")?;
        let layers = (0..shape.layers).map(|layer| reader.layer(layer)).collect::<Result<Vec<_>, _>>()?;
        let divisors = match shape.rope.scaling {
            Scaling::Tensor => Some(reader.floats("rope_freqs.weight")?),
            _ => None,
        };
        let [all, local] = frequencies(shape, divisors.as_deref());
        let sequences = host.sequences.clamp(1, MAX_SEQUENCES);
        let blocks = usize::try_from(room.cached).unwrap_or(usize::MAX).div_ceil(BLOCK) + 1;
        let kv = kv_of(shape, host.kv.on_gpu(), blocks);
        let cache = (0..shape.layers).map(|_| Ok([device.alloc(kv.bytes())?, device.alloc(kv.bytes())?]));
        let sizes = Sizes::new(shape, &Formats::of(weights, shape), sequences, room);
        Ok(Self {
            device: device.clone(),
            kv,
            embeddings,
            output,
            output_norm,
            layers,
            frequencies: [device.upload(&all)?, device.upload(&local)?],
            cache: cache.collect::<Result<_, ModelError>>()?,
            inputs: Inputs::new(device, sizes.entries)?,
            work: Work::new(device, &sizes)?,
            recordings: HashMap::new(),
            warm: Vec::new(),
            host: device.alloc_host(LOGIT_ROWS * shape.vocab as usize * 4)?,
            many: Vec::new(),
            states: Vec::new(),
            drawn: Vec::new(),
            shape: shape.clone(),
            sequences,
            others: None,
            sizes,
            shelf: shelf.clone(),
            parked: None,
            nothing: device.alloc(0)?,
        })
    }
}

impl Work {
    pub(super) fn new(device: &Device, sizes: &Sizes) -> Result<Self, ModelError> {
        let alloc = |bytes: usize| device.alloc(bytes);
        let [a, b, c, d] = sizes.inputs;
        Ok(Self {
            x: alloc(sizes.x)?,
            added: alloc(sizes.x)?,
            qkv: alloc(sizes.qkv)?,
            gate_up: alloc(sizes.gate_up)?,
            parts: alloc(sizes.parts)?,
            logits: alloc(sizes.logits)?,
            scores: alloc(sizes.scores)?,
            chosen: alloc(sizes.chosen)?,
            weights: alloc(sizes.chosen)?,
            made: alloc(sizes.made)?,
            draws: alloc(LOGIT_ROWS * size_of::<ops::Draw>())?,
            drawn: alloc(LOGIT_ROWS * 4)?,
            inputs: [alloc(a)?, alloc(b)?, alloc(c)?, alloc(d)?],
            groups: alloc(sizes.groups)?,
        })
    }
}

impl Reader<'_> {
    fn layer(&mut self, layer: u64) -> Result<Layer, ModelError> {
        let of = |part: &str| format!("blk.{layer}.{part}");
        let architecture = self.shape.architecture;
        let post = |reader: &mut Self, part: &str| {
            architecture.has_post_norms().then(|| reader.norm(&of(part))).transpose()
        };
        let names = ["attn_q", "attn_k", "attn_v"].map(&of);
        let heads = [self.shape.heads, self.shape.kv_heads, 0];
        let parts: Vec<(String, Order)> = names
            .iter()
            .zip(heads)
            .map(|(name, heads)| (format!("{name}.weight"), self.order(heads)))
            .collect();
        let biases = || names.iter().map(|name| self.floats(&format!("{name}.bias")));
        let bias =
            architecture.has_qkv_bias().then(|| biases().collect::<Result<Vec<_>, _>>()).transpose()?;
        let bias = bias.map(|bias| self.device.upload(&bias.concat())).transpose()?;
        let normed = |reader: &mut Self, name: &str| {
            architecture.has_qk_norm().then(|| reader.norm(&of(name))).transpose()
        };
        Ok(Layer {
            attention_norm: self.norm(&of("attn_norm.weight"))?,
            qkv: self.linear(&parts)?,
            bias,
            query_norm: normed(self, "attn_q_norm.weight")?,
            key_norm: normed(self, "attn_k_norm.weight")?,
            attention_out: self.matrix(&of("attn_output.weight"), Order::Stored)?,
            attention_post_norm: post(self, "post_attention_norm.weight")?,
            feed_forward_norm: self.norm(&of("ffn_norm.weight"))?,
            feed_forward: self.feed_forward(layer)?,
            feed_forward_post_norm: post(self, "post_ffw_norm.weight")?,
            window: self.shape.window_of(layer).map(|window| window as usize),
        })
    }

    /// `heads`: those that are rotated; 0 for values.
    fn order(&self, heads: u64) -> Order {
        let paired =
            matches!(self.weights.files, Files::Gguf { .. }) && self.shape.architecture.gguf_has_pairs();
        match paired && heads > 0 {
            true => Order::Unpaired { head: self.shape.head_dim as usize },
            false => Order::Stored,
        }
    }

    fn feed_forward(&mut self, layer: u64) -> Result<FeedForward, ModelError> {
        let of = |part: &str| format!("blk.{layer}.{part}.weight");
        let Some(experts) = self.shape.experts else {
            let parts = [of("ffn_gate"), of("ffn_up")].map(|name| (name, Order::Stored));
            let down = self.matrix(&of("ffn_down"), Order::Stored)?;
            return Ok(FeedForward::Dense { gate_up: self.linear(&parts)?, down });
        };
        let count = experts.count as usize;
        let tensor = |name: &str, expert: u64| self.weights.tensor(&of(name), Some(expert));
        let (gate, down) = (tensor("ffn_gate_exps", 0)?, tensor("ffn_down_exps", 0)?);
        let new = |like: &StoredTensor, rows: usize| {
            Matrix::new(self.device, like.kind.format(), [count, rows, like.columns])
        };
        let (gate_up, downs) = (new(&gate, 2 * gate.rows)?, new(&down, down.rows)?);
        for expert in 0..experts.count {
            let all = [
                tensor("ffn_gate_exps", expert)?,
                tensor("ffn_up_exps", expert)?,
                tensor("ffn_down_exps", expert)?,
            ];
            let at = expert as usize;
            write(self.pool, &gate_up, 2 * at * gate.rows, &all[0], Order::Stored)?;
            write(self.pool, &gate_up, (2 * at + 1) * gate.rows, &all[1], Order::Stored)?;
            write(self.pool, &downs, at * down.rows, &all[2], Order::Stored)?;
        }
        let router = self.matrix(&of("ffn_gate_inp"), Order::Stored)?;
        let (used, normalized) = (experts.used as usize, experts.normalized);
        let experts = Experts { router, gate_up, down: downs, count, used, normalized };
        Ok(FeedForward::Experts(Box::new(experts)))
    }

    /// Matrices of which those that follow each other and are held alike become one.
    fn linear(&mut self, parts: &[(String, Order)]) -> Result<Linear, ModelError> {
        let tensors = parts.iter().map(|(name, order)| Ok((self.weights.tensor(name, None)?, *order)));
        let tensors = tensors.collect::<Result<Vec<_>, ModelError>>()?;
        let alike = tensors.chunk_by(|(a, _), (b, _)| a.kind.format() == b.kind.format());
        let matrices = alike.map(|some| {
            let rows = some.iter().map(|(tensor, _)| tensor.rows).sum();
            let (format, columns): (Format, usize) = (some[0].0.kind.format(), some[0].0.columns);
            let matrix = Matrix::new(self.device, format, [1, rows, columns])?;
            let mut row = 0;
            for (tensor, order) in some {
                write(self.pool, &matrix, row, tensor, *order)?;
                row += tensor.rows;
            }
            Ok(matrix)
        });
        Ok(Linear { parts: matrices.collect::<Result<_, ModelError>>()? })
    }

    fn matrix(&mut self, name: &str, order: Order) -> Result<Matrix, ModelError> {
        let tensor = self.weights.tensor(name, None)?;
        let matrix = Matrix::new(self.device, tensor.kind.format(), [1, tensor.rows, tensor.columns])?;
        write(self.pool, &matrix, 0, &tensor, order)?;
        Ok(matrix)
    }

    fn floats(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        self.weights.tensor(name, None)?.floats()
    }

    fn norm(&self, name: &str) -> Result<Buffer, ModelError> {
        let mut norm = self.floats(name)?;
        let as_converted = matches!(self.weights.files, Files::Gguf { .. });
        if self.shape.architecture.norms_lack_one() && !as_converted {
            norm.iter_mut().for_each(|weight| *weight += 1.0);
        }
        Ok(self.device.upload(&norm)?)
    }
}

/// A tensor's rows, from the matrix's row `first` on.
fn write(
    pool: &mut Pool,
    matrix: &Matrix,
    first: usize,
    tensor: &StoredTensor,
    order: Order,
) -> Result<(), ModelError> {
    let row_len = tensor.len() / tensor.rows.max(1);
    // Rows that change places stay together.
    let group = match order {
        Order::Stored => 1,
        Order::Unpaired { head } => head,
    };
    let each = (PIECE / row_len.max(1)).next_multiple_of(group).max(group);
    for from in (0..tensor.rows).step_by(each) {
        let rows = each.min(tensor.rows - from);
        let piece = Piece { of: tensor, from: from * row_len, len: rows * row_len };
        let planes = Planes::read(pool, tensor.kind.recipe(), [rows, tensor.columns], &piece, order);
        let planes = planes.map_err(|e| ModelError(format!("a tensor cannot be read: {e}")))?;
        matrix.write(first + from, &planes)?;
    }
    Ok(())
}
