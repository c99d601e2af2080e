//! Everything that can be known about a model before its weights are read. What is wrong with a file
//! is said here, by kind and in words, and never by a failing allocation or a panic later.

use std::{path::Path, sync::Arc};

use neuron_protocol::LoadError;

use crate::{
    engine::{Architecture, Estimate, KvFormat, MARGIN_MB, Room, Shape, ShapeError, Weights},
    gguf::Header,
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

/// A file that can be loaded where there is memory for it.
#[derive(Debug)]
pub struct Checked {
    pub weights: Weights,
    pub shape: Shape,
    pub text: Arc<TextModel>,
    /// Tokens of prompt and answer that it is made for, or that the configuration allows.
    pub context: u64,
}

/// Reads and checks the header at `path`. `max_context`: the configured limit, 0 for none. Blocks on the disk.
pub fn check(model_id: &str, path: &Path, max_context: u64) -> Result<Checked, LoadError> {
    let invalid = |cause: &dyn std::fmt::Display| LoadError::InvalidFile {
        model_id: model_id.to_owned(),
        file: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        cause: cause.to_string(),
    };
    let header = Header::open(path).map_err(|e| invalid(&e))?;
    let shape = match Shape::from_header(&header) {
        Ok(shape) => Ok(shape),
        Err(ShapeError::File(e)) => Err(invalid(&e)),
        Err(ShapeError::Unsupported(architecture)) => Err(LoadError::UnsupportedArchitecture {
            model_id: model_id.to_owned(),
            architecture,
            supported: Architecture::ALL.iter().map(|a| a.name().to_owned()).collect(),
        }),
    }?;
    let unknown = header.tensors.iter().find(|(_, tensor)| tensor.format.block().is_none());
    if let Some((name, tensor)) = unknown {
        let (model_id, tensor, quant) = (model_id.to_owned(), name.clone(), tensor.format.name());
        return Err(LoadError::UnsupportedQuant { model_id, quant, tensor });
    }
    let text = text(model_id, &header, invalid)?;
    let context = shape.context(max_context);
    let weights = Weights::Gguf { path: path.to_owned(), header: Arc::new(header) };
    Ok(Checked { weights, shape, text: Arc::new(text), context })
}

/// The text side alone, for counting tokens of a model that is not loaded. Blocks on the disk.
pub fn check_text(model_id: &str, path: &Path) -> Result<TextModel, LoadError> {
    let invalid = |cause: &dyn std::fmt::Display| LoadError::InvalidFile {
        model_id: model_id.to_owned(),
        file: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        cause: cause.to_string(),
    };
    let header = Header::open(path).map_err(|e| invalid(&e))?;
    text(model_id, &header, invalid)
}

/// What the configuration says of a model's cache.
#[derive(Debug, Clone, Copy, Default)]
pub struct CacheLimits {
    /// Tokens of a window; 0: no limit.
    pub max_context: u64,
    /// MiB for keys and values; 0: as the window needs.
    pub kv_cache_mb: u64,
    pub format: KvFormat,
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
    let estimate = |room| Estimate::new(&checked.weights, &checked.shape, limits.format, room);
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
    let several = Room { context, cached: context.max(GENEROUS.min(4 * context)) };
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
    let required_mb = estimate.total_mb() + MARGIN_MB;
    if required_mb <= free_mb {
        return Ok(());
    }
    Err(LoadError::InsufficientVram { model_id: model_id.to_owned(), required_mb, free_mb, device: 0 })
}

fn text(
    model_id: &str,
    header: &Header,
    invalid: impl Fn(&dyn std::fmt::Display) -> LoadError,
) -> Result<TextModel, LoadError> {
    TextModel::from_header(header).map_err(|error| match error {
        TextError::Tokenizer(TokenizerError::Unsupported(tokenizer)) => LoadError::UnsupportedTokenizer {
            model_id: model_id.to_owned(),
            tokenizer,
            supported: tokenizer::supported(),
        },
        TextError::Tokenizer(TokenizerError::File(e)) | TextError::File(e) => invalid(&e),
    })
}
