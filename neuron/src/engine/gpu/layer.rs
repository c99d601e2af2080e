//! One layer: attention, then the feed-forward. What each adds to the residual stream is added by the next normalisation.

use neuron_cuda::{
    Act, Buffer, Device, Matrix,
    ops::{self, AddNorm, Attention, Cache, Kv, KvFloat, Rope},
};

use super::{
    GpuDecoder,
    experts::Experts,
    step::{Step, Work},
};
use crate::engine::{ModelError, architecture::Activation};

pub(super) struct Layer {
    pub(super) attention_norm: Buffer,
    /// To queries, keys and values.
    pub(super) qkv: Linear,
    pub(super) bias: Option<Buffer>,
    pub(super) query_norm: Option<Buffer>,
    pub(super) key_norm: Option<Buffer>,
    pub(super) attention_out: Matrix,
    /// Of what attention adds.
    pub(super) attention_post_norm: Option<Buffer>,
    pub(super) feed_forward_norm: Buffer,
    pub(super) feed_forward: FeedForward,
    /// Of what the feed-forward adds.
    pub(super) feed_forward_post_norm: Option<Buffer>,
    /// Positions that its tokens see; `None`: all.
    pub(super) window: Option<usize>,
}

pub(super) enum FeedForward {
    Dense { gate_up: Linear, down: Matrix },
    Experts(Box<Experts>),
}

/// Matrices whose rows follow each other: one, where all are held alike.
pub(super) struct Linear {
    pub(super) parts: Vec<Matrix>,
}

impl Linear {
    pub(super) fn rows(&self) -> usize {
        self.parts.iter().map(Matrix::rows).sum()
    }

    /// The forms of activations that it is multiplied with.
    pub(super) fn acts(&self, tokens: usize) -> Vec<Act> {
        let mut acts: Vec<Act> = Vec::new();
        for part in &self.parts {
            let act = part.format().act(tokens);
            if !acts.contains(&act) {
                acts.push(act);
            }
        }
        acts
    }

    pub(super) fn multiply(
        &self,
        device: &Device,
        work: &Work,
        tokens: usize,
        out: &Buffer,
    ) -> Result<(), ModelError> {
        let (mut offset, stride) = (0, self.rows());
        for part in &self.parts {
            let x = work.input(part.format().act(tokens), [tokens, part.columns()]);
            ops::multiply(device, part, &x, out, [offset, stride])?;
            offset += part.rows();
        }
        Ok(())
    }
}

impl Layer {
    pub(super) fn matrices(&self) -> Vec<&Matrix> {
        let mut all: Vec<&Matrix> = self.qkv.parts.iter().chain([&self.attention_out]).collect();
        match &self.feed_forward {
            FeedForward::Dense { gate_up, down } => all.extend(gate_up.parts.iter().chain([down])),
            FeedForward::Experts(experts) => all.extend(experts.matrices()),
        }
        all
    }
}

impl Layer {
    pub(super) fn matrices_mut(&mut self) -> Vec<&mut Matrix> {
        let mut all: Vec<&mut Matrix> = self.qkv.parts.iter_mut().chain([&mut self.attention_out]).collect();
        match &mut self.feed_forward {
            FeedForward::Dense { gate_up, down } => all.extend(gate_up.parts.iter_mut().chain([down])),
            FeedForward::Experts(experts) => all.extend(experts.matrices_mut()),
        }
        all
    }
}

/// What a layer before has left to be added to the residual stream.
pub(super) struct Pending<'a> {
    pub(super) post: Option<&'a Buffer>,
}

impl GpuDecoder {
    /// Everything between tokens and logits.
    pub(super) fn enqueue(&mut self, step: &Step) -> Result<(), ModelError> {
        let Self { device, shape, embeddings, inputs, work, others, .. } = self;
        let scale = shape.embedding_scale;
        ops::embed(device, embeddings, &inputs.tokens, step.tokens, scale, &work.x)?;
        // Taken out, as what it waits for needs all else.
        let mut others_now = others.take();
        let mut all_reduce = |work: &Work, tokens: usize, width: usize| match &mut others_now {
            None => Ok(()),
            Some(others) => others.all_reduce(work, tokens * width),
        };
        let done = self.layers(step, &mut all_reduce);
        self.others = others_now;
        done
    }

    fn layers(
        &self,
        step: &Step,
        all_reduce: &mut dyn FnMut(&Work, usize, usize) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let Self { device, shape, work, .. } = self;
        let (tokens, hidden) = (step.tokens, shape.hidden as usize);
        let mut pending = None;
        for (index, layer) in self.layers.iter().enumerate() {
            self.normed(step, pending.as_ref(), &layer.attention_norm, &layer.qkv.acts(tokens))?;
            layer.qkv.multiply(device, work, tokens, &work.qkv)?;
            self.attention(step, index, layer)?;
            let x =
                work.input(layer.attention_out.format().act(tokens), [tokens, layer.attention_out.columns()]);
            ops::multiply(device, &layer.attention_out, &x, &work.added, [0, hidden])?;
            all_reduce(work, tokens, hidden)?;

            let pending_now = Pending { post: layer.attention_post_norm.as_ref() };
            let gelu = shape.architecture.activation() == Activation::Gelu;
            match &layer.feed_forward {
                FeedForward::Dense { gate_up, down } => {
                    self.normed(step, Some(&pending_now), &layer.feed_forward_norm, &gate_up.acts(tokens))?;
                    gate_up.multiply(device, work, tokens, &work.gate_up)?;
                    let x = work.input(down.format().act(tokens), [tokens, down.columns()]);
                    ops::gate_up(device, &work.gate_up, gelu, &x)?;
                    ops::multiply(device, down, &x, &work.added, [0, hidden])?;
                }
                FeedForward::Experts(experts) => {
                    self.normed(step, Some(&pending_now), &layer.feed_forward_norm, &experts.acts(tokens))?;
                    experts.run(device, work, tokens, gelu)?;
                }
            }
            all_reduce(work, tokens, hidden)?;
            pending = Some(Pending { post: layer.feed_forward_post_norm.as_ref() });
        }
        self.head(step, pending.as_ref())
    }

    /// Adds what is pending, and normalises into all of these forms.
    fn normed(
        &self,
        step: &Step,
        pending: Option<&Pending<'_>>,
        weight: &Buffer,
        acts: &[Act],
    ) -> Result<(), ModelError> {
        let shape = [step.tokens, self.shape.hidden as usize];
        let norm = AddNorm {
            x: &self.work.x,
            added: pending.map(|_| &self.work.added),
            post: pending.and_then(|pending| pending.post),
            weight,
            rows: None,
            tokens: step.tokens,
            epsilon: self.shape.epsilon,
        };
        if let [act] = acts {
            return Ok(ops::add_norm(&self.device, &norm, &self.work.input(*act, shape))?);
        }
        // Matrices that are held in different ways: first as floats, then in each way.
        let floats = self.work.input(Act::F32, shape);
        ops::add_norm(&self.device, &norm, &floats)?;
        for act in acts.iter().filter(|act| **act != Act::F32) {
            ops::convert(&self.device, floats.data, &self.work.input(*act, shape))?;
        }
        Ok(())
    }

    fn attention(&self, step: &Step, index: usize, layer: &Layer) -> Result<(), ModelError> {
        let Self { device, shape, kv, inputs, work, .. } = self;
        let [keys, values] = &self.cache[index];
        let cache = Cache { keys, values };
        let local = layer.window.is_some() && shape.rope.local_base.is_some();
        let rope = Rope {
            bias: layer.bias.as_ref(),
            query_norm: layer.query_norm.as_ref(),
            key_norm: layer.key_norm.as_ref(),
            frequencies: &self.frequencies[usize::from(local)],
            slots: &inputs.slots,
            epsilon: shape.epsilon,
        };
        let attention = Attention {
            qkv: &work.qkv,
            tokens: step.tokens,
            positions: &inputs.positions,
            starts: &inputs.starts,
            tables: &inputs.tables,
            window: layer.window.unwrap_or(0),
            scale: shape.attention_scale,
        };
        ops::rope(device, kv, &rope, &attention, &cache)?;
        let act = layer.attention_out.format().act(step.tokens);
        let out = work.input(act, [step.tokens, kv.heads * kv.dim]);
        if step.tiles > 0 {
            ops::attend_many(device, kv, &attention, &cache, &inputs.tiles, step.tiles, &out)?;
        }
        if step.rows > 0 {
            ops::attend_one(device, kv, &attention, &cache, [&inputs.rows, &work.parts], step.rows, &out)?;
        }
        Ok(())
    }

    /// Logits of the first rows that want them, and of a recordable step of all; the rest is computed as it is read.
    fn head(&self, step: &Step, pending: Option<&Pending<'_>>) -> Result<(), ModelError> {
        self.logits(step, pending.and_then(|pending| pending.post), 0, step.wanted.min(super::LOGIT_ROWS))
    }

    /// Logits of `count` rows from the `first` on.
    pub(super) fn logits(
        &self,
        step: &Step,
        post: Option<&Buffer>,
        first: usize,
        count: usize,
    ) -> Result<(), ModelError> {
        let matrix = self.output.as_ref().unwrap_or(&self.embeddings);
        let x = self.work.input(matrix.format().act(count), [count, self.shape.hidden as usize]);
        self.last_norm(step, post, &self.inputs.wanted.part(first * 4, count * 4), &x)?;
        Ok(ops::multiply(&self.device, matrix, &x, &self.work.logits, [0, matrix.rows()])?)
    }

    /// The rows' states as the head has them. Each row may be asked for once: what is pending is added then.
    pub(super) fn last_norm(
        &self,
        step: &Step,
        post: Option<&Buffer>,
        rows: &Buffer,
        out: &ops::Acts<'_>,
    ) -> Result<(), ModelError> {
        let norm = AddNorm {
            x: &self.work.x,
            added: Some(&self.work.added),
            post,
            weight: &self.output_norm,
            rows: Some(rows),
            tokens: step.tokens,
            epsilon: self.shape.epsilon,
        };
        Ok(ops::add_norm(&self.device, &norm, out)?)
    }

    /// Of the last layer.
    pub(super) fn last_post(&self) -> Option<&Buffer> {
        self.layers.last().and_then(|layer| layer.feed_forward_post_norm.as_ref())
    }
}

/// What a model's cache of a layer is.
pub(super) fn kv_of(shape: &crate::engine::Shape, float: KvFloat, blocks: usize) -> Kv {
    Kv {
        heads: shape.heads as usize,
        kv_heads: shape.kv_heads as usize,
        dim: shape.head_dim as usize,
        float,
        blocks,
    }
}
