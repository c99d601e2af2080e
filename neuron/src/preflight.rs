//! Everything that can be known about a model before its weights are read. What is wrong with a file
//! is said here, by kind and in words, and never by a failing allocation or a panic later.

use std::{path::Path, sync::Arc};

use neuron_kernels::quant::Target;
use neuron_protocol::LoadError;

use crate::{
    engine::{Blueprint, Estimate, KvFormat, OnGpu, Room, ShapeError, Weights, gpu_refusal},
    folder::{FolderError, Problem},
    gguf::{GgufError, Header},
    safetensors::Safetensors,
    sources,
    text::{TextError, TextModel},
    tokenizer::{self, TokenizerError},
};

/// Tokens below which no window is cut to fit: a conversation needs them.
const LEAST_WINDOW: u64 = 2048;
/// Windows that are cut are a multiple of this.
const WINDOW_STEP: u64 = 256;
/// Tokens that a cache has room for where nothing else is said and the window is shorter: eight
/// conversations of a common length.
const GENEROUS: u64 = 16 << 10;
/// Tokens of each conversation that a GPU's cache has room for, where memory allows.
const GPU_EACH: u64 = 4096;

/// A file that can be loaded where there is memory for it.
#[derive(Debug)]
pub struct Checked {
    pub weights: Weights,
    pub plan: Blueprint,
    pub text: Arc<TextModel>,
    /// Tokens of prompt and answer that it is made for, or that the configuration allows.
    pub context: u64,
}

impl Checked {
    /// What each of `size` devices has of it. Errors where it cannot be shared out.
    pub fn sharded(self, model_id: &str, size: usize) -> Result<Self, LoadError> {
        let plan = match &self.plan {
            _ if size == 1 => return Ok(self),
            _ if self.weights.is_gguf() => Err("it is a GGUF file, which is not cut into parts".to_owned()),
            Blueprint::Decoder(shape) => shape.sharded(size as u64).map(Blueprint::Decoder),
            other => Err(format!("{} is not computed in parts", other.name())),
        };
        let tp_size = u32::try_from(size).unwrap_or(u32::MAX);
        let model_id = model_id.to_owned();
        let plan = plan.map_err(|cause| LoadError::TpUnsupported { model_id, tp_size, cause })?;
        Ok(Self { plan, ..self })
    }
}

/// Reads and checks the headers at `path`, a GGUF file or the folder of a model in safetensors.
/// `in_situ`: what weights in safetensors are quantised to. `max_context`: the configured limit, 0 for none. Blocks on
/// the disk.
pub fn check(
    model_id: &str,
    path: &Path,
    in_situ: Option<Target>,
    max_context: u64,
) -> Result<Checked, LoadError> {
    let refuse = Refuse { model_id, path };
    let text = || refuse.text(path).map(Arc::new);
    let (weights, plan, text) = if path.is_dir() {
        let files = Arc::new(Safetensors::open(path).map_err(|e| refuse.folder(&e))?);
        let plan = Blueprint::from_safetensors(&files).map_err(|e| refuse.shape(e))?;
        if let Some(target) = in_situ.filter(|_| !matches!(plan, Blueprint::Decoder(_))) {
            return Err(refuse.in_situ(target));
        }
        (Weights::safetensors(files).quantised(in_situ), plan, text()?)
    } else {
        let header = Header::open(path).map_err(|e| refuse.file(&e))?;
        let plan = Blueprint::from_header(&header).map_err(|e| refuse.shape(e))?;
        let unknown = header.tensors.iter().find(|(_, tensor)| tensor.format.block().is_none());
        if let Some((name, tensor)) = unknown {
            return Err(refuse.quant(name, &tensor.format.name()));
        }
        let text = TextModel::from_header(&header).map_err(|e| refuse.text_error(e))?;
        let weights = Weights::gguf(path.to_owned(), Arc::new(header));
        (weights, plan, Arc::new(text))
    };
    let longest = text.embeds.as_ref().and_then(|embeds| embeds.longest).filter(|_| plan.encodes());
    let context = plan.context(max_context).min(longest.unwrap_or(u64::MAX));
    Ok(Checked { weights, plan, text, context })
}

/// The text side alone, for counting tokens of a model that is not loaded. Blocks on the disk.
pub fn check_text(model_id: &str, path: &Path) -> Result<TextModel, LoadError> {
    Refuse { model_id, path }.text(path)
}

/// What the configuration says of a model's cache.
#[derive(Debug, Clone, Copy, Default)]
pub struct CacheLimits {
    /// Tokens of a window; 0: no limit.
    pub max_context: u64,
    /// MiB for keys and values; 0: as the window needs.
    pub kv_cache_mb: u64,
    pub format: KvFormat,
    /// The device is a GPU.
    pub gpu: Option<OnGpu>,
}

/// Window, cache and their estimate where `free_mb` are free. The cache has room for several windows where
/// memory allows; where it does not even allow one, and the configuration sets no `max_context`, the window
/// is as long as memory allows.
pub fn fit(
    model_id: &str,
    checked: &Checked,
    limits: CacheLimits,
    free_mb: u64,
) -> Result<(Room, Estimate), LoadError> {
    let text_bytes = checked.text.held_bytes();
    let free_mb = match (&checked.plan, limits.gpu) {
        (Blueprint::Decoder(shape), Some(_)) => {
            if let Some(cause) = gpu_refusal(&checked.weights, shape, limits.format) {
                return Err(LoadError::UnsupportedOnDevice { model_id: model_id.to_owned(), cause });
            }
            free_mb
        }
        // The host computes it.
        (_, Some(gpu)) => gpu.host_free_mb,
        (_, None) => free_mb,
    };
    let estimate =
        |room| Estimate::new(&checked.weights, &checked.plan, text_bytes, limits.format, room, limits.gpu);
    let fits = |room| check_memory(model_id, &estimate(room), free_mb);
    let mut context = checked.context;
    if limits.kv_cache_mb > 0 {
        // What a whole block takes tells what a token does.
        let block_kb = estimate(Room { context, cached: 16 << 10 }).cache_mb.max(1);
        let cached = (limits.kv_cache_mb << 10) / block_kb * 16;
        context = context.min(cached.max(WINDOW_STEP));
        let room = Room { context, cached: cached.max(context) };
        return fits(room).map(|()| (room, estimate(room)));
    }
    let generous = match limits.gpu {
        _ if !checked.plan.is_batched() => 0,
        None => GENEROUS.min(4 * context),
        // A GPU has much memory and little else to do with it: as many conversations as may run, but no more than half of
        // what the weights leave, for other models have to go somewhere.
        Some(gpu) => {
            let nothing = estimate(Room { context, cached: 0 });
            let left_mb = free_mb.saturating_sub(nothing.total_mb() + nothing.margin_mb());
            let each = estimate(Room { context, cached: 16 << 10 }).cache_mb.max(1);
            (gpu.sequences as u64 * context.min(GPU_EACH)).min(left_mb / 2 * (16 << 10) / each)
        }
    };
    let several = Room { context, cached: context.max(generous) };
    if fits(several).is_ok() {
        return Ok((several, estimate(several)));
    }
    let one = |context| Room { context, cached: context };
    let whole = fits(one(context));
    if whole.is_ok() || limits.max_context != 0 {
        return whole.map(|()| (one(context), estimate(one(context))));
    }
    let mut fitting = LEAST_WINDOW.min(context);
    fits(one(fitting))?;
    let mut too_long = context;
    while too_long - fitting > WINDOW_STEP {
        let between = fitting + (too_long - fitting) / 2;
        match fits(one(between)) {
            Ok(()) => fitting = between,
            Err(_) => too_long = between,
        }
    }
    let window = fitting - fitting % WINDOW_STEP.min(fitting);
    tracing::info!(model = model_id, window, whole = context, "memory allows a shorter window");
    Ok((one(window), estimate(one(window))))
}

/// Refuses where the estimate and the margin are more than `free_mb`.
pub fn check_memory(model_id: &str, estimate: &Estimate, free_mb: u64) -> Result<(), LoadError> {
    let required_mb = estimate.total_mb() + estimate.margin_mb();
    if required_mb <= free_mb {
        return Ok(());
    }
    Err(LoadError::InsufficientVram { model_id: model_id.to_owned(), required_mb, free_mb, device: 0 })
}

/// A model's refusal, in the API's words.
#[derive(Clone, Copy)]
struct Refuse<'a> {
    model_id: &'a str,
    path: &'a Path,
}

impl Refuse<'_> {
    fn text(&self, path: &Path) -> Result<TextModel, LoadError> {
        let text = match path.is_dir() {
            true => TextModel::from_folder(path),
            false => TextModel::from_header(&Header::open(path).map_err(|e| self.file(&e))?),
        };
        text.map_err(|e| self.text_error(e))
    }

    fn invalid(&self, file: String, cause: String) -> LoadError {
        LoadError::InvalidFile { model_id: self.model_id.to_owned(), file, cause }
    }

    fn file(&self, error: &GgufError) -> LoadError {
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned());
        self.invalid(name.unwrap_or_default(), error.to_string())
    }

    fn folder(&self, error: &FolderError) -> LoadError {
        match &error.problem {
            Problem::Format { name, dtype } => self.quant(name, dtype),
            problem => self.invalid(error.file.clone(), problem.to_string()),
        }
    }

    fn quant(&self, tensor: &str, quant: &str) -> LoadError {
        LoadError::UnsupportedQuant {
            model_id: self.model_id.to_owned(),
            quant: quant.to_owned(),
            tensor: tensor.to_owned(),
        }
    }

    /// Of an architecture that is loaded as it is.
    fn in_situ(&self, target: Target) -> LoadError {
        LoadError::QuantNotFound {
            model_id: self.model_id.to_owned(),
            requested: target.name().to_owned(),
            available: vec![sources::SAFETENSORS.to_owned()],
            nearest: Some(sources::SAFETENSORS.to_owned()),
        }
    }

    fn shape(&self, error: ShapeError) -> LoadError {
        match error {
            ShapeError::File(error) => self.file(&error),
            ShapeError::Folder(error) => self.folder(&error),
            ShapeError::Unsupported(architecture) => LoadError::UnsupportedArchitecture {
                model_id: self.model_id.to_owned(),
                architecture,
                supported: match self.path.is_dir() {
                    true => Blueprint::of_safetensors(),
                    false => Blueprint::of_gguf(),
                },
            },
        }
    }

    fn text_error(&self, error: TextError) -> LoadError {
        match error {
            TextError::Tokenizer(TokenizerError::Unsupported(tokenizer)) => LoadError::UnsupportedTokenizer {
                model_id: self.model_id.to_owned(),
                tokenizer,
                supported: tokenizer::supported(),
            },
            TextError::Tokenizer(TokenizerError::File(e)) | TextError::File(e) => self.file(&e),
            TextError::Tokenizer(TokenizerError::Folder(e)) | TextError::Folder(e) => self.folder(&e),
        }
    }
}
