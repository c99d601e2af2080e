//! Matrices in eight bits, and the scales that lie beside them: one number, one a row, or one a block of 128 by 128, as
//! transformers (`fp8`, `fbgemm_fp8`), llm-compressor (`compressed-tensors`) and ModelOpt write them.

use super::{Safetensors, Tensor};
use crate::{
    engine::{Kind, ModelError, Scales, StoredTensor},
    folder::Problem,
};
use neuron_kernels::{dense::Float, quant::Target};

/// Ways to quantise, as config.json names them, whose eight-bit floats are read here.
pub(crate) const METHODS: [&str; 4] = ["fp8", "fbgemm_fp8", "compressed-tensors", "modelopt"];
/// Where a matrix's scales are. Both are factors: `inv` is of what the weights were multiplied by.
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];
/// What else lies beside such matrices: activations and caches are not held in eight bits by these, but by their own values.
const BESIDE: [&str; 5] = [".input_scale", ".output_scale", ".q_scale", ".k_scale", ".v_scale"];
/// Rows and columns of a block, where config.json does not say.
const BLOCK: u64 = 128;

impl Tensor {
    pub(super) fn is_eight_bits(&self) -> bool {
        self.dtype.name() == "F8_E4M3"
    }

    /// What it is held as; `None`: nothing that is computed with.
    pub(super) fn kind(&self) -> Option<Kind> {
        match self.is_eight_bits() {
            true => Some(self.kind_of_eight_bits()),
            false => self.dtype.float().map(Kind::Float),
        }
    }

    /// What the matrix becomes unless something else is wanted: the eight bits of GGUF, which add a fifth of the error that these
    /// have already.
    fn kind_of_eight_bits(&self) -> Kind {
        let columns = self.dims.last().copied().unwrap_or(1);
        match Target::Q8_0.takes(columns) {
            true => Kind::InSitu(Float::F32, Target::Q8_0),
            false => Kind::Float(Float::F32),
        }
    }
}

impl Safetensors {
    /// Scales of another matrix, or of what is not computed in eight bits here.
    pub(super) fn is_scale(&self, name: &str) -> bool {
        let of = SCALES.iter().find_map(|end| name.strip_suffix(end));
        of.and_then(|matrix| self.tensors.get(matrix)).is_some_and(Tensor::is_eight_bits)
            || (BESIDE.iter().any(|end| name.ends_with(end))
                && self.tensors.values().any(Tensor::is_eight_bits))
    }

    /// Rows and columns of a block of each scale of the matrix, and the scales' name.
    pub(super) fn blocks(&self, name: &str, tensor: &Tensor) -> Result<(String, [u64; 2]), Problem> {
        let [rows, columns] = tensor.dims[..] else {
            return Err(Problem::Shape { name: name.to_owned(), dims: tensor.dims.clone() });
        };
        let found =
            SCALES.iter().map(|end| format!("{name}{end}")).find(|scales| self.tensors.contains_key(scales));
        let Some(found) = found else {
            return Err(Problem::Missing(format!("tensor {name}_scale, the scales of {name},")));
        };
        let scales = &self.tensors[&found];
        let [block_rows, block_columns] = self.block_size();
        let block = match scales.dims[..] {
            [] | [1] | [1, 1] => [rows, columns],
            [each] | [each, 1] if each == rows => [1, columns],
            [down, across]
                if down == rows.div_ceil(block_rows) && across == columns.div_ceil(block_columns) =>
            {
                [block_rows, block_columns]
            }
            _ => return Err(Problem::Shape { name: found, dims: scales.dims.clone() }),
        };
        match scales.dtype.float() {
            Some(_) => Ok((found, block.map(|side| side.max(1)))),
            None => Err(Problem::Format { name: found, dtype: scales.dtype.name() }),
        }
    }

    fn block_size(&self) -> [u64; 2] {
        let said = &self.config()["quantization_config"]["weight_block_size"];
        let side = |at: usize| said[at].as_u64().filter(|side| *side > 0).unwrap_or(BLOCK);
        [side(0), side(1)]
    }

    /// The matrix with its scales.
    pub(super) fn stored_in_eight_bits(
        &self,
        name: &str,
        tensor: &Tensor,
    ) -> Result<StoredTensor, ModelError> {
        let (scales, block) = self
            .blocks(name, tensor)
            .map_err(|problem| ModelError(self.problem(name, problem).to_string()))?;
        let values = self.stored_own(&scales)?.floats()?;
        let (rows, columns) = (tensor.dims[0], tensor.dims[1]);
        let side = |at: usize| usize::try_from(block[at]).unwrap_or(usize::MAX);
        let across = usize::try_from(columns.div_ceil(block[1])).unwrap_or(usize::MAX);
        let scales = Scales { values, block: [side(0), side(1)], across };
        let path = self.folder.join(&self.files[tensor.file]);
        let place = [tensor.start, tensor.len];
        StoredTensor::open_eight_bits(
            name,
            &path,
            place,
            [rows, columns],
            (tensor.kind_of_eight_bits(), scales),
        )
    }
}
