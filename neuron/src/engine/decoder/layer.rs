//! One layer: attention, then the feed-forward.

use neuron_kernels::{
    Input, Matrix, Pool, Product,
    attention::{Heads, attend},
    each_row,
    kv::KvCache,
    multiply, ops,
};

use super::{
    Buffers, Step,
    experts::Experts,
    rope::{Angles, Rotary},
};
use crate::engine::{Communicator, ModelError, Shape, architecture::Activation};

/// The ranks that have the rest of the model.
type Others = Option<Box<dyn Communicator>>;

pub(super) struct Layer {
    pub(super) attention_norm: Vec<f32>,
    pub(super) query: Projection,
    pub(super) key: Projection,
    pub(super) value: Projection,
    pub(super) attention_out: Matrix,
    /// Of what attention adds.
    pub(super) attention_post_norm: Option<Vec<f32>>,
    pub(super) feed_forward_norm: Vec<f32>,
    pub(super) feed_forward: FeedForward,
    /// Of what the feed-forward adds.
    pub(super) feed_forward_post_norm: Option<Vec<f32>>,
    /// Positions that its tokens see; `None`: all.
    pub(super) window: Option<usize>,
}

/// To the heads' dimensions.
pub(super) struct Projection {
    pub(super) matrix: Matrix,
    pub(super) bias: Option<Vec<f32>>,
    /// Of each head.
    pub(super) norm: Option<Vec<f32>>,
}

pub(super) enum FeedForward {
    Dense { gate: Matrix, up: Matrix, down: Matrix },
    Experts(Experts),
}

impl Layer {
    pub(super) fn matrices(&self) -> Vec<&Matrix> {
        let mut all = vec![&self.query.matrix, &self.key.matrix, &self.value.matrix, &self.attention_out];
        match &self.feed_forward {
            FeedForward::Dense { gate, up, down } => all.extend([gate, up, down]),
            FeedForward::Experts(experts) => {
                all.push(&experts.router);
                all.extend(experts.each.iter().flat_map(|expert| [&expert.gate, &expert.up, &expert.down]));
            }
        }
        all
    }

    /// Adds to the residual stream what attention makes of it.
    #[expect(clippy::too_many_arguments, reason = "the decoder's parts, borrowed apart")]
    pub(super) fn attention(
        &self,
        shape: &Shape,
        pool: &mut Pool,
        rotary: &Rotary,
        cache: &mut KvCache,
        index: usize,
        buffers: &mut Buffers,
        step: &Step<'_>,
        others: &mut Others,
    ) -> Result<(), ModelError> {
        let dim = shape.head_dim as usize;
        let (heads, kv_heads) = (shape.heads as usize, shape.kv_heads as usize);
        let Buffers { x, added, input, queries, keys, values, slots, .. } = buffers;
        normed(pool, x, &self.attention_norm, shape.epsilon, input);
        let projections = [&self.query, &self.key, &self.value];
        input.ready(pool, projections.map(|p| &p.matrix));
        queries.resize(step.tokens * heads * dim, 0.0);
        keys.resize(step.tokens * kv_heads * dim, 0.0);
        values.resize(step.tokens * kv_heads * dim, 0.0);
        multiply(
            pool,
            &mut [
                Product::new(&self.query.matrix, input, queries),
                Product::new(&self.key.matrix, input, keys),
                Product::new(&self.value.matrix, input, values),
            ],
        );
        let angles = rotary.angles(self.window.is_some());
        self.query.finish(pool, queries, heads, dim, shape.epsilon, Some(angles));
        self.key.finish(pool, keys, kv_heads, dim, shape.epsilon, Some(angles));
        self.value.finish(pool, values, kv_heads, dim, shape.epsilon, None);
        cache.store(pool, index, slots, keys, values, kv_heads * dim);

        let heads_of = Heads {
            heads,
            kv_heads,
            head_dim: dim,
            scale: shape.attention_scale,
            window: self.window,
            softcap: None,
        };
        let seen = input.start(step.tokens, heads * dim);
        attend(pool, cache, index, &heads_of, step.spans, queries, heads * dim, seen);
        input.ready(pool, [&self.attention_out]);
        let norm = self.attention_post_norm.as_deref();
        add(pool, &self.attention_out, input, norm, shape.epsilon, x, added, others)
    }

    /// Adds to the residual stream what the feed-forward makes of it.
    pub(super) fn feed_forward(
        &self,
        shape: &Shape,
        pool: &mut Pool,
        buffers: &mut Buffers,
        step: &Step<'_>,
        others: &mut Others,
    ) -> Result<(), ModelError> {
        let Buffers { x, added, input, gate, up, .. } = buffers;
        normed(pool, x, &self.feed_forward_norm, shape.epsilon, input);
        let activation = shape.architecture.activation();
        match &self.feed_forward {
            FeedForward::Dense { gate: gates, up: ups, down } => {
                let width = gates.rows();
                input.ready(pool, [gates, ups]);
                gate.resize(step.tokens * width, 0.0);
                up.resize(step.tokens * width, 0.0);
                multiply(pool, &mut [Product::new(gates, input, gate), Product::new(ups, input, up)]);
                let out = input.start(step.tokens, width);
                each_row(pool, out, width, |row, out| {
                    let range = row * width..(row + 1) * width;
                    out.copy_from_slice(&gate[range.clone()]);
                    activate(activation, out, &up[range]);
                });
                input.ready(pool, [down]);
                let norm = self.feed_forward_post_norm.as_deref();
                add(pool, down, input, norm, shape.epsilon, x, added, others)
            }
            FeedForward::Experts(experts) => {
                added.clear();
                added.resize(x.len(), 0.0);
                experts.run(pool, input, &mut buffers.experts, activation, added);
                if let Some(others) = others {
                    others.all_reduce(added)?;
                }
                ops::add(x, added);
                Ok(())
            }
        }
    }
}

/// gate = activation(gate) * up
pub(super) fn activate(activation: Activation, gate: &mut [f32], up: &[f32]) {
    match activation {
        Activation::Silu => ops::silu_times(gate, up),
        Activation::Gelu => ops::gelu_times(gate, up),
    }
}

fn normed(pool: &mut Pool, x: &[f32], weight: &[f32], epsilon: f32, input: &mut Input) {
    let width = weight.len();
    let out = input.start(x.len() / width, width);
    each_row(pool, out, width, |row, out| {
        ops::rms_norm(&x[row * width..(row + 1) * width], weight, epsilon, out);
    });
}

/// x += input * matrix, summed over all ranks where there are several, and normalised before it is added where there
/// is a norm.
#[expect(clippy::too_many_arguments, reason = "the decoder's parts, borrowed apart")]
fn add(
    pool: &mut Pool,
    matrix: &Matrix,
    input: &Input,
    norm: Option<&[f32]>,
    epsilon: f32,
    x: &mut [f32],
    added: &mut Vec<f32>,
    others: &mut Others,
) -> Result<(), ModelError> {
    if norm.is_none() && others.is_none() {
        multiply(pool, &mut [Product::adding(matrix, input, x)]);
        return Ok(());
    }
    added.resize(x.len(), 0.0);
    multiply(pool, &mut [Product::new(matrix, input, added)]);
    if let Some(others) = others {
        others.all_reduce(added)?;
    }
    if let Some(norm) = norm {
        each_row(pool, added, norm.len(), |_, row| ops::rms_norm_in_place(row, norm, epsilon));
    }
    ops::add(x, added);
    Ok(())
}

impl Projection {
    /// Bias, norm and rotation of what the matrix gave: `[tokens, heads * dim]`.
    fn finish(
        &self,
        pool: &mut Pool,
        data: &mut [f32],
        heads: usize,
        dim: usize,
        epsilon: f32,
        angles: Option<&Angles>,
    ) {
        if self.bias.is_none() && self.norm.is_none() && angles.is_none() {
            return;
        }
        each_row(pool, data, heads * dim, |token, row| {
            if let Some(bias) = &self.bias {
                ops::add(row, bias);
            }
            for head in row.chunks_exact_mut(dim) {
                if let Some(norm) = &self.norm {
                    ops::rms_norm_in_place(head, norm, epsilon);
                }
                if let Some(angles) = angles {
                    let (cos, sin) = angles.of(token);
                    ops::rotate(head, cos, sin);
                }
            }
        });
    }
}
