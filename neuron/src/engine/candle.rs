//! GGUF models of candle-transformers behind [`Model`]. They hold one sequence's cache, so they serve
//! one request at a time.

use std::{collections::HashMap, fs::File, io::BufReader, path::Path};

use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType,
        gguf_file::{Content, TensorInfo, Value as CandleValue, VersionedMagic},
    },
};
use candle_transformers::models::{quantized_llama, quantized_qwen2, quantized_qwen3};

use super::{Architecture, Backend, Model, ModelError, Shape};
use crate::gguf::{Format, Header, Value};

/// Prompt tokens a forward: enough to fill the vector units, little enough that a control waits
/// for tenths of a second and not for a whole prompt.
pub(crate) const CHUNK: usize = 128;

/// Loads onto the CPU.
#[derive(Debug, Default)]
pub struct CandleBackend;

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        // candle appends a backtrace to its messages where one is enabled; a client has no use for it.
        Self(error.to_string().lines().next().unwrap_or_default().to_owned())
    }
}

impl Backend for CandleBackend {
    fn load(
        &mut self,
        path: &Path,
        header: &Header,
        shape: &Shape,
        context: u64,
    ) -> Result<Box<dyn Model>, ModelError> {
        let file = File::open(path).map_err(|e| ModelError(format!("{}: {e}", path.display())))?;
        let mut file = BufReader::new(file);
        let content = content(header, shape, context)?;
        let device = Device::Cpu;
        Ok(match shape.architecture {
            Architecture::Llama => {
                let pristine = quantized_llama::ModelWeights::from_gguf(content, &mut file, &device)?;
                Box::new(Llama { live: pristine.clone(), pristine })
            }
            Architecture::Qwen2 => {
                Box::new(Qwen2(quantized_qwen2::ModelWeights::from_gguf(content, &mut file, &device)?))
            }
            Architecture::Qwen3 => {
                Box::new(Qwen3(quantized_qwen3::ModelWeights::from_gguf(content, &mut file, &device)?))
            }
        })
    }
}

struct Llama {
    live: quantized_llama::ModelWeights,
    /// The same weights (clones share them) without a cache: also without the masks, which candle
    /// keeps for every length that it has ever seen.
    pristine: quantized_llama::ModelWeights,
}

impl Model for Llama {
    fn forward(&mut self, tokens: &[u32], position: usize) -> Result<Vec<f32>, ModelError> {
        Ok(logits(self.live.forward(&batch_of_one(tokens)?, position)?)?)
    }

    fn reset(&mut self) {
        self.live = self.pristine.clone();
    }

    fn chunk(&self, left: usize) -> usize {
        left.min(CHUNK)
    }
}

struct Qwen2(quantized_qwen2::ModelWeights);

impl Model for Qwen2 {
    fn forward(&mut self, tokens: &[u32], position: usize) -> Result<Vec<f32>, ModelError> {
        Ok(logits(self.0.forward(&batch_of_one(tokens)?, position)?)?)
    }

    fn reset(&mut self) {
        self.0.clear_kv_cache();
    }

    /// Powers of two: candle keeps a mask for every pair of chunk and position, and these are few.
    fn chunk(&self, left: usize) -> usize {
        if left >= CHUNK { CHUNK } else { 1 << left.max(1).ilog2() }
    }
}

struct Qwen3(quantized_qwen3::ModelWeights);

impl Model for Qwen3 {
    fn forward(&mut self, tokens: &[u32], position: usize) -> Result<Vec<f32>, ModelError> {
        Ok(logits(self.0.forward(&batch_of_one(tokens)?, position)?)?)
    }

    fn reset(&mut self) {
        self.0.clear_kv_cache();
    }

    /// A chunk of one token goes only to the decode cache, which later chunks do not read: it must be the last.
    fn chunk(&self, left: usize) -> usize {
        left.min(CHUNK)
    }
}

fn batch_of_one(tokens: &[u32]) -> candle_core::Result<Tensor> {
    Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)
}

/// `[1, vocab]` to a plain vector.
fn logits(output: Tensor) -> candle_core::Result<Vec<f32>> {
    output.flatten_all()?.to_vec1()
}

/// The header as candle's own type, with nothing in it that has not been checked.
fn content(header: &Header, shape: &Shape, context: u64) -> Result<Content, ModelError> {
    let mut metadata: HashMap<String, CandleValue> =
        header.metadata.iter().filter_map(|(key, value)| Some((key.clone(), scalar(value)?))).collect();
    let name = shape.architecture.name();
    let number = |n: u64| CandleValue::U32(u32::try_from(n).unwrap_or(u32::MAX));
    // Rotary tables get the length of the window in use, not of the longest one possible.
    metadata.insert(format!("{name}.context_length"), number(context));
    metadata.insert(format!("{name}.attention.key_length"), number(shape.head_dim));
    metadata.insert(format!("{name}.rope.dimension_count"), number(shape.head_dim));
    // What the files' own library takes where a file does not say; candle's qwen3 takes nothing.
    metadata.entry(format!("{name}.rope.freq_base")).or_insert(CandleValue::F32(10_000.0));
    // Rotary tables in F32 (0): in F16 positions beyond 2048 are no longer told apart.
    metadata.insert("general.dtype".to_owned(), CandleValue::U32(0));

    let mut tensor_infos = HashMap::with_capacity(header.tensors.len());
    for (name, tensor) in &header.tensors {
        let ggml_dtype = dtype(tensor.format)
            .ok_or_else(|| ModelError(format!("tensor {name} is {}", tensor.format.name())))?;
        let dims: Vec<usize> = tensor.dims.iter().rev().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
        tensor_infos
            .insert(name.clone(), TensorInfo { ggml_dtype, shape: dims.into(), offset: tensor.offset });
    }
    Ok(Content {
        magic: VersionedMagic::GgufV3,
        metadata,
        tensor_infos,
        tensor_data_offset: header.data_offset,
    })
}

/// candle asks for exactly these widths.
#[expect(clippy::cast_possible_truncation, reason = "files store these as f32")]
fn scalar(value: &Value) -> Option<CandleValue> {
    match value {
        Value::Int(n) => u32::try_from(*n).ok().map(CandleValue::U32),
        Value::Float(x) => Some(CandleValue::F32(*x as f32)),
        Value::Bool(b) => Some(CandleValue::Bool(*b)),
        Value::Text(text) => Some(CandleValue::String(text.clone())),
        Value::Uint(_) | Value::Array(_) => None,
    }
}

fn dtype(format: Format) -> Option<GgmlDType> {
    Some(match format.0 {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}
