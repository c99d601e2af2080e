//! Weights to the host's memory and back. Norms, biases and frequencies, some KiB a layer, stay where they are.

use neuron_cuda::{Buffer, Matrix, Shelved};

use super::{
    GpuDecoder,
    step::{Inputs, Work},
};
use crate::engine::ModelError;

impl GpuDecoder {
    pub(super) fn park_now(&mut self) -> Result<bool, ModelError> {
        if self.parked.is_some() {
            return Ok(true);
        }
        let bytes = self.all_matrices().into_iter().map(Matrix::bytes).sum();
        if !self.shelf.could_have(bytes) {
            return Err(ModelError(format!(
                "its {} MiB are more than engine.park_mb allows this GPU",
                bytes >> 20
            )));
        }
        if !self.shelf.has_room(bytes) {
            return Ok(false);
        }
        let buffers: Vec<&Buffer> = self.all_matrices().into_iter().flat_map(Matrix::buffers).collect();
        let shelved = self.shelf.put(&buffers)?;
        self.parked = Some(shelved);
        self.let_go();
        Ok(true)
    }

    /// All that is large; recordings would use it still.
    fn let_go(&mut self) {
        let nothing = &self.nothing.clone();
        self.recordings.clear();
        self.warm.clear();
        self.cache.clear();
        self.inputs = Inputs::nothing(nothing);
        self.work = Work::nothing(nothing);
        self.many = Vec::new();
        for matrix in self.all_matrices_mut() {
            matrix.give_back(nothing);
        }
    }

    pub(super) fn wake_now(&mut self) -> Result<(), ModelError> {
        let Some(mut shelved) = self.parked.take() else { return Ok(()) };
        let woken = self.bring_back(&mut shelved);
        if woken.is_err() {
            self.parked = Some(shelved);
            self.let_go();
        }
        woken
    }

    fn bring_back(&mut self, shelved: &mut Shelved) -> Result<(), ModelError> {
        let device = self.device.clone();
        self.all_matrices_mut().into_iter().try_for_each(|matrix| matrix.allocate(&device))?;
        let kv = self.kv.bytes();
        let cache = (0..self.shape.layers).map(|_| Ok([device.alloc(kv)?, device.alloc(kv)?]));
        self.cache = cache.collect::<Result<_, ModelError>>()?;
        self.inputs = Inputs::new(&device, self.sizes.entries)?;
        self.work = Work::new(&device, &self.sizes)?;
        let buffers: Vec<&Buffer> = self.all_matrices().into_iter().flat_map(Matrix::buffers).collect();
        Ok(shelved.take(&buffers)?)
    }

    pub(super) fn all_matrices(&self) -> Vec<&Matrix> {
        let layers = self.layers.iter().flat_map(super::Layer::matrices);
        layers.chain([&self.embeddings]).chain(&self.output).collect()
    }

    fn all_matrices_mut(&mut self) -> Vec<&mut Matrix> {
        let Self { layers, embeddings, output, .. } = self;
        let layers = layers.iter_mut().flat_map(super::Layer::matrices_mut);
        layers.chain([embeddings]).chain(output).collect()
    }
}

impl Inputs {
    fn nothing(nothing: &Buffer) -> Self {
        Self::of_parts(nothing, Vec::new(), |_, _| nothing.clone())
    }
}

impl Work {
    fn nothing(nothing: &Buffer) -> Self {
        let each = || nothing.clone();
        Self {
            x: each(),
            added: each(),
            qkv: each(),
            gate_up: each(),
            parts: each(),
            logits: each(),
            scores: each(),
            chosen: each(),
            weights: each(),
            made: each(),
            draws: each(),
            drawn: each(),
            inputs: [each(), each(), each(), each()],
            groups: each(),
        }
    }
}
