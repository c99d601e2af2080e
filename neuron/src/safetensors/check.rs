//! A model's tensors against its shape.

use std::collections::BTreeSet;

use super::Safetensors;
use crate::{
    engine::{Shape, ShapeError},
    folder::Problem,
};

impl Safetensors {
    /// Every tensor of the forward is there, has the dimensions that the forward takes it to have and a type
    /// that is computed with; and there is none that the forward would pass over.
    pub(crate) fn check_tensors(&self, shape: &Shape) -> Result<(), ShapeError> {
        let mut used = BTreeSet::new();
        for (gguf_name, dims) in shape.tensors() {
            // GGUF has the experts of a layer in one tensor, these files one by one.
            let (dims, experts) = match dims[..] {
                [columns, rows, experts] => (vec![rows, columns], experts),
                _ => (dims.into_iter().rev().collect(), 1),
            };
            for expert in 0..experts {
                let name = self.names.name(&gguf_name, Some(expert));
                used.insert(self.check_tensor(name.unwrap_or_else(|| gguf_name.clone()), &dims)?);
            }
        }
        // A tensor that the forward passes over changes what the model says: llama with biases, say.
        let is_other = |name: &&String| {
            !used.contains(*name) && !self.names.is_beside(name, shape.tied) && !self.is_scale(name)
        };
        let other = self.tensors.keys().find(is_other);
        match other {
            Some(other) => {
                Err(ShapeError::Unsupported(format!("{} with the tensor {other}", shape.architecture.name())))
            }
            None => Ok(()),
        }
    }

    /// It is there, with these dimensions, and of a type that is computed with.
    pub(crate) fn check_tensor(&self, name: String, dims: &[u64]) -> Result<String, ShapeError> {
        let Some(tensor) = self.tensors.get(&name) else {
            return Err(self.missing(&name).into());
        };
        let problem = if tensor.dims != dims {
            Problem::Shape { name, dims: tensor.dims.clone() }
        } else if tensor.is_eight_bits() {
            match self.blocks(&name, tensor) {
                Ok(_) => return Ok(name),
                Err(problem) => problem,
            }
        } else if tensor.dtype.float().is_none() {
            Problem::Format { name, dtype: tensor.dtype.name() }
        } else {
            return Ok(name);
        };
        Err(problem.of(&self.files[tensor.file]).into())
    }
}
