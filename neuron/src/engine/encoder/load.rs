//! An encoder out of its files, a tensor at a time.

use std::sync::Arc;

use neuron_kernels::{Order, Pool, ops};

use super::{Buffers, Encoder, EncoderForm, Layer, Linear, Norm, Table, form::norm_names};
use crate::{
    engine::{
        ModelError, Room, Weights,
        weights::{Files, StoredTensor},
    },
    safetensors::Safetensors,
};

struct Reader<'a> {
    weights: &'a Weights,
    files: &'a Arc<Safetensors>,
    form: &'a EncoderForm,
    pool: &'a mut Pool,
}

impl Encoder {
    /// Reads the weights.
    pub(crate) fn load(
        threads: usize,
        weights: &Weights,
        form: &EncoderForm,
        room: Room,
    ) -> Result<Self, ModelError> {
        let Files::Safetensors(files) = &weights.files else {
            return Err(ModelError("it is read from safetensors alone".to_owned()));
        };
        let mut pool =
            Pool::new("cpu-0", threads.max(1)).map_err(|e| ModelError(format!("no thread: {e}")))?;
        let mut reader = Reader { weights, files, form, pool: &mut pool };
        let (words, positions) = (reader.words()?, reader.positions()?);
        let norm = reader.norm(&reader.embeddings("LayerNorm"))?;
        let layers = (0..form.layers).map(|layer| reader.layer(layer)).collect::<Result<_, _>>()?;
        let context = usize::try_from(room.context).unwrap_or(usize::MAX);
        let (form, buffers, states) = (form.clone(), Buffers::default(), Vec::new());
        Ok(Self { form, pool, context, words, positions, norm, layers, buffers, states })
    }
}

impl Reader<'_> {
    fn embeddings(&self, name: &str) -> String {
        format!("{}embeddings.{name}", self.form.prefix)
    }

    fn words(&self) -> Result<Table, ModelError> {
        let words = self.tensor(&self.embeddings("word_embeddings.weight"))?;
        Ok(Table { float: words.float()?, bytes: words.bytes()? })
    }

    /// With the first sentence's kind added, from a text's first on.
    fn positions(&self) -> Result<Vec<f32>, ModelError> {
        let mut positions = self.vector(&self.embeddings("position_embeddings.weight"))?;
        let width = self.form.width();
        let before = usize::try_from(self.form.first_position).unwrap_or(usize::MAX).saturating_mul(width);
        positions.drain(..before.min(positions.len()));
        if self.form.family.has_kinds {
            let kinds = self.vector(&self.embeddings("token_type_embeddings.weight"))?;
            positions.chunks_exact_mut(width).for_each(|position| ops::add(position, &kinds[..width]));
        }
        Ok(positions)
    }

    fn layer(&mut self, layer: u64) -> Result<Layer, ModelError> {
        let names = self.form.family.names;
        let of = |part: &str| self.form.part(layer, part);
        Ok(Layer {
            query: self.linear(&of(names.query))?,
            key: self.linear(&of(names.key))?,
            value: self.linear(&of(names.value))?,
            attention_out: self.linear(&of(names.attention_out))?,
            attention_norm: self.norm(&of(names.attention_norm))?,
            up: self.linear(&of(names.up))?,
            down: self.linear(&of(names.down))?,
            norm: self.norm(&of(names.norm))?,
        })
    }

    fn linear(&mut self, name: &str) -> Result<Linear, ModelError> {
        let matrix = self.tensor(&format!("{name}.weight"))?.matrix(self.pool, Order::Stored)?;
        Ok(Linear { matrix, bias: self.vector(&format!("{name}.bias"))? })
    }

    fn norm(&self, name: &str) -> Result<Norm, ModelError> {
        let [weight, bias] = norm_names(self.files, name);
        Ok(Norm { weight: self.vector(&weight)?, bias: self.vector(&bias)? })
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        self.tensor(name)?.floats()
    }

    fn tensor(&self, name: &str) -> Result<StoredTensor, ModelError> {
        self.weights.own_tensor(self.files, name)
    }
}
