//! Everything that can be known about a model before its weights are read. What is wrong with a file
//! is said here, by kind and in words, and never by a failing allocation or a panic later.

use std::{path::Path, sync::Arc};

use neuron_protocol::LoadError;

use crate::{
    engine::{Architecture, CHUNK, Estimate, MARGIN_MB, Shape, ShapeError},
    gguf::Header,
    text::{TextError, TextModel},
    tokenizer::{self, TokenizerError},
};

/// Tokens below which no window is cut to fit: a conversation needs them.
const LEAST_WINDOW: u64 = 2048;
/// Windows that are cut are a multiple of this.
const WINDOW_STEP: u64 = 256;

/// A file that can be loaded where there is memory for it.
#[derive(Debug)]
pub struct Checked {
    pub header: Arc<Header>,
    pub shape: Shape,
    pub text: Arc<TextModel>,
    /// Tokens of prompt and answer that fit.
    pub context: u64,
    pub estimate: Estimate,
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
    let estimate = Estimate::new(&header, &shape, context, CHUNK as u64);
    Ok(Checked { header: Arc::new(header), shape, text: Arc::new(text), context, estimate })
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

/// The window and its estimate where `free_mb` are free. Where the configuration sets no `max_context` (0),
/// the window is as long as memory allows, up to what the model was made for.
pub fn fit(
    model_id: &str,
    checked: &Checked,
    max_context: u64,
    free_mb: u64,
) -> Result<(u64, Estimate), LoadError> {
    let whole = check_memory(model_id, &checked.estimate, free_mb);
    if whole.is_ok() || max_context != 0 {
        return whole.map(|()| (checked.context, checked.estimate));
    }
    let estimate = |context| Estimate::new(&checked.header, &checked.shape, context, CHUNK as u64);
    let mut fits = LEAST_WINDOW.min(checked.context);
    check_memory(model_id, &estimate(fits), free_mb)?;
    let mut too_long = checked.context;
    while too_long - fits > WINDOW_STEP {
        let between = fits + (too_long - fits) / 2;
        match check_memory(model_id, &estimate(between), free_mb) {
            Ok(()) => fits = between,
            Err(_) => too_long = between,
        }
    }
    let window = fits - fits % WINDOW_STEP.min(fits);
    tracing::info!(model = model_id, window, whole = checked.context, "memory allows a shorter window");
    Ok((window, estimate(window)))
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
