//! Architectures out of GGUF files: their matrices stay as the file has them.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufReader, Seek},
    path::{Path, PathBuf},
};

use candle_core::{
    DType, Device, Result, Tensor,
    quantized::gguf_file::{self, Content},
};
use candle_transformers::models as m;

use super::{
    form::{Form, Source, Steps},
    nets::Net,
};
use crate::{
    engine::ShapeError,
    gguf::{GgufError, Header},
};

/// No model has more layers or heads; a larger number is damage.
const MAX_COUNT: u64 = 4096;
/// Nor is any other number larger.
const MAX_NUMBER: u64 = 1 << 24;

/// Tensors of a layer: those that must be there, and those that may.
type Layer = (Vec<&'static str>, Vec<&'static str>);

/// An architecture.
pub(super) struct Entry {
    /// As the file names it.
    architecture: &'static str,
    /// Tokens in one forward.
    chunk: usize,
    /// Reads the weights, for a context of so many tokens.
    pub(super) build: fn(&Path, u64) -> Result<Box<dyn Net>>,
    /// Names without the layer's number in front.
    layer: fn(&Header, u64) -> std::result::Result<Layer, GgufError>,
    /// Tensors beside the layers' and the embeddings, and those that it may have.
    outside: (&'static [&'static str], &'static [&'static str]),
}

pub(super) const CATALOGUE: &[Entry] = &[
    Entry {
        architecture: "glm4",
        chunk: super::catalogue::CHUNK,
        build: |path, context| {
            let (content, mut reader) = open(path, "glm4.context_length", context)?;
            let model =
                m::quantized_glm4::ModelWeights::from_gguf(content, &mut reader, &Device::Cpu, DType::F32)?;
            Ok(Box::new(Copied::new(model, m::quantized_glm4::ModelWeights::forward)))
        },
        layer: |_, _| {
            let needed = vec![
                "attn_norm.weight",
                "attn_q.weight",
                "attn_k.weight",
                "attn_v.weight",
                "attn_output.weight",
                "post_attention_norm.weight",
                "ffn_norm.weight",
                "ffn_up.weight",
                "ffn_down.weight",
                "post_ffw_norm.weight",
            ];
            Ok((needed, vec!["attn_q.bias", "attn_k.bias", "attn_v.bias"]))
        },
        outside: (&["output_norm.weight"], &["output.weight"]),
    },
    Entry {
        architecture: "lfm2",
        chunk: Lfm2::CHUNK,
        build: |path, context| Ok(Box::new(Lfm2::new(path, context)?)),
        layer: |header, layer| {
            let mut needed = vec![
                "attn_norm.weight",
                "ffn_norm.weight",
                "ffn_gate.weight",
                "ffn_up.weight",
                "ffn_down.weight",
            ];
            needed.extend(match lfm2_heads(header, layer)? {
                0 => &["shortconv.conv.weight", "shortconv.in_proj.weight", "shortconv.out_proj.weight"][..],
                _ => &[
                    "attn_q.weight",
                    "attn_k.weight",
                    "attn_v.weight",
                    "attn_output.weight",
                    "attn_q_norm.weight",
                    "attn_k_norm.weight",
                ],
            });
            Ok((needed, Vec::new()))
        },
        outside: (&[], &["output.weight", "output_norm.weight", "token_embd_norm.weight"]),
    },
];

/// Heads of keys and values: a layer that has none is a convolution.
fn lfm2_heads(header: &Header, layer: u64) -> std::result::Result<i64, GgufError> {
    let key = "lfm2.attention.head_count_kv";
    let all = header.numbers(key)?.ok_or_else(|| GgufError::Missing(key.to_owned()))?;
    let heads = usize::try_from(layer).ok().and_then(|layer| all.get(layer));
    heads.copied().ok_or_else(|| GgufError::Inconsistent(format!("{key} has no number for layer {layer}")))
}

/// A model that is copied for each conversation, for it cannot forget: copies share their matrices.
struct Copied<M> {
    fresh: M,
    now: M,
    forward: fn(&mut M, &Tensor, usize) -> Result<Tensor>,
}

impl<M: Clone> Copied<M> {
    fn new(fresh: M, forward: fn(&mut M, &Tensor, usize) -> Result<Tensor>) -> Self {
        Self { now: fresh.clone(), fresh, forward }
    }
}

impl<M: Clone> Net for Copied<M> {
    fn forward(&mut self, tokens: &Tensor, position: usize) -> Result<Tensor> {
        (self.forward)(&mut self.now, tokens, position)
    }

    fn clear(&mut self) -> Result<bool> {
        self.now = self.fresh.clone();
        Ok(true)
    }
}

/// A layer keeps its last few tokens, and two things are wrong with how: several tokens at once forget those
/// before them, which is right for the first of a conversation alone; and a single first one forgets nothing.
struct Lfm2 {
    /// `None` where reading it anew has failed.
    model: Option<m::quantized_lfm2::ModelWeights>,
    path: PathBuf,
    context: u64,
    used: bool,
}

impl Lfm2 {
    /// The first two tokens of a conversation together; those after them one by one.
    const CHUNK: usize = 2;

    fn new(path: &Path, context: u64) -> Result<Self> {
        let (content, mut reader) = open(path, "lfm2.context_length", context)?;
        let model = m::quantized_lfm2::ModelWeights::from_gguf(content, &mut reader, &Device::Cpu)?;
        Ok(Self { model: Some(model), path: path.to_owned(), context, used: false })
    }
}

impl Net for Lfm2 {
    fn forward(&mut self, tokens: &Tensor, position: usize) -> Result<Tensor> {
        let count = tokens.dim(1)?;
        if position == 0 && count == 1 && self.used {
            // A prompt of one token is rare enough to read the weights anew.
            // There may be no memory for both.
            self.model = None;
            *self = Self::new(&self.path, self.context)?;
        }
        self.used = true;
        let gone = || candle_core::Error::Msg("its weights could not be read again".to_owned());
        let model = self.model.as_mut().ok_or_else(gone)?;
        if position == 0 || count == 1 {
            return model.forward(tokens, position);
        }
        for index in 0..count - 1 {
            model.forward(&tokens.narrow(1, index, 1)?, position + index)?;
        }
        model.forward(&tokens.narrow(1, count - 1, 1)?, position + count - 1)
    }

    fn clear(&mut self) -> Result<bool> {
        Ok(true)
    }
}

/// `length`: the key of the context's length, for tables of positions are that long.
fn open(path: &Path, length: &str, context: u64) -> Result<(Content, BufReader<File>)> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut content = Content::read(&mut reader)?;
    let positions = u32::try_from(context).unwrap_or(u32::MAX);
    content.metadata.insert(length.to_owned(), gguf_file::Value::U32(positions));
    reader.rewind()?;
    Ok((content, reader))
}

/// `None`: nobody here computes such a model.
pub(super) fn form(header: &Header) -> std::result::Result<Option<Form>, ShapeError> {
    let name = header.architecture()?;
    let Some(entry) = CATALOGUE.iter().find(|entry| entry.architecture == name) else { return Ok(None) };
    if !header.parts.is_empty() {
        return Err(ShapeError::Unsupported(format!("{name} in several files")));
    }
    let number = |key: &str| {
        let value = header.number(&format!("{name}.{key}"))?;
        let max = if key.ends_with("_count") { MAX_COUNT } else { MAX_NUMBER };
        let too_large =
            || GgufError::Inconsistent(format!("{name}.{key} is {value}, where at most {max} is possible"));
        (value <= max).then_some(value).ok_or_else(too_large)
    };
    let (hidden, layers) = (number("embedding_length")?, number("block_count")?);
    let heads = number("attention.head_count")?.max(1);
    let head_dim = header.optional_number(&format!("{name}.attention.key_length"))?.unwrap_or(hidden / heads);
    check_tensors(entry, header, layers)?;
    refuse_variants(header, name, head_dim)?;
    let embeddings = header.tensors.get("token_embd.weight").map_or(&[][..], |t| &t.dims);
    let [width, vocab] = embeddings[..] else {
        return Err(GgufError::Missing("tensor token_embd.weight".to_owned()).into());
    };
    if width != hidden {
        let text = format!("embeddings of {width} numbers, where {name}.embedding_length is {hidden}");
        return Err(GgufError::Inconsistent(text).into());
    }
    let bytes: u64 = header.tensors.values().filter_map(|tensor| tensor.bytes()).sum();
    // Embeddings are held once more, in F32; so is every F16 matrix, which is twice its bytes.
    let widened = header.tensors.values().filter(|t| [1, 30].contains(&t.format.0)).filter_map(|t| t.bytes());
    let weights_bytes = bytes + vocab * hidden * 4 + widened.sum::<u64>();
    let kv_heads = match header.numbers(&format!("{name}.attention.head_count_kv")) {
        Ok(Some(all)) => all.iter().map(|heads| heads.unsigned_abs().min(MAX_COUNT)).sum(),
        _ => number("attention.head_count_kv")? * layers,
    };
    let steps = Steps {
        chunk: entry.chunk,
        hidden,
        heads,
        head_dim,
        feed_forward: number("feed_forward_length")?,
        vocab,
    };
    Ok(Some(Form {
        name: entry.architecture,
        chunk: entry.chunk,
        source: Source::Gguf(entry),
        context: number("context_length")?,
        vocab,
        weights_bytes,
        position_bytes: 2 * kv_heads * head_dim * 4,
        step_bytes: steps.bytes(),
    }))
}

/// Variants that have the same tensors, and would run without a word and wrongly.
fn refuse_variants(header: &Header, name: &str, head_dim: u64) -> std::result::Result<(), ShapeError> {
    let key = |key: &str| format!("{name}.{key}");
    let refused = |what: String| Err(ShapeError::Unsupported(format!("{name} with {what}")));
    if let Some(kind) = header.optional_text(&key("rope.scaling.type"))?.filter(|kind| *kind != "none") {
        return refused(format!("rope scaling {kind:?}"));
    }
    for other in ["rope.scaling.factor", "rope.scale_linear"] {
        if header.optional_float(&key(other))?.is_some_and(|factor| factor != 0.0 && factor != 1.0) {
            return refused(key(other));
        }
    }
    // Of a model that sees: rows of queries and keys are in another order.
    if header.metadata.contains_key(&key("rope.dimension_sections")) {
        return refused(key("rope.dimension_sections"));
    }
    match header.optional_number(&key("rope.dimension_count"))? {
        // candle turns half of a head in glm4, and all of it in lfm2.
        Some(turned) if turned != if name == "glm4" { head_dim / 2 } else { head_dim } => {
            refused(format!("{turned} of {head_dim} dimensions rotated"))
        }
        _ => Ok(()),
    }
}

/// All that the forward uses are there, and none that it would pass over.
fn check_tensors(entry: &Entry, header: &Header, layers: u64) -> std::result::Result<(), ShapeError> {
    let mut known: BTreeSet<String> = ["token_embd.weight"].into_iter().map(str::to_owned).collect();
    known.extend(entry.outside.0.iter().map(|name| (*name).to_owned()));
    let mut allowed: BTreeSet<String> = entry.outside.1.iter().map(|name| (*name).to_owned()).collect();
    for layer in 0..layers {
        let (needed, possible) = (entry.layer)(header, layer)?;
        known.extend(needed.iter().map(|part| format!("blk.{layer}.{part}")));
        allowed.extend(possible.iter().map(|part| format!("blk.{layer}.{part}")));
    }
    if let Some(missing) = known.iter().find(|name| !header.tensors.contains_key(*name)) {
        return Err(GgufError::Missing(format!("tensor {missing}")).into());
    }
    match header.tensors.keys().find(|name| !known.contains(*name) && !allowed.contains(*name)) {
        Some(other) => {
            Err(ShapeError::Unsupported(format!("{} with the tensor {other}", entry.architecture)))
        }
        None => Ok(()),
    }
}

/// Names of the architectures.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    CATALOGUE.iter().map(|entry| entry.architecture)
}
