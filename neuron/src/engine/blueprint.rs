use std::sync::Arc;

use super::{Architecture, EncoderForm, Form, Shape, ShapeError, candle, encoder_types};
use crate::{gguf::Header, safetensors::Safetensors};

/// How a model is computed.
#[derive(Debug, Clone)]
pub enum Blueprint {
    /// By our decoder: many sequences at once.
    Decoder(Shape),
    /// Vectors of whole texts, by our encoder: many at once.
    Encoder(EncoderForm),
    /// By candle-transformers: one at a time.
    Candle(Form),
}

impl Blueprint {
    /// Reads the numbers and checks every tensor that a forward will use.
    pub fn from_safetensors(files: &Arc<Safetensors>) -> Result<Self, ShapeError> {
        if let Some(form) = EncoderForm::from_safetensors(files)? {
            return Ok(Self::Encoder(form));
        }
        let ours = Architecture::by_model_type(files.root().text("model_type")?).is_some();
        match Form::from_safetensors(files)? {
            Some(form) if !ours => Ok(Self::Candle(form)),
            _ => Shape::from_safetensors(files).map(Self::Decoder),
        }
    }

    /// As [`Self::from_safetensors`].
    pub fn from_header(header: &Header) -> Result<Self, ShapeError> {
        match Form::from_header(header)? {
            Some(form) => Ok(Self::Candle(form)),
            None => Shape::from_header(header).map(Self::Decoder),
        }
    }

    /// The architecture, as files name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Decoder(shape) => shape.architecture.name(),
            Self::Encoder(form) => form.name(),
            Self::Candle(form) => form.name(),
        }
    }

    /// Tokens of prompt and answer that fit: the least of what the model and the configuration (0: no
    /// limit of its own) allow.
    pub fn context(&self, configured: u64) -> u64 {
        let made_for = match self {
            Self::Decoder(shape) => return shape.context(configured),
            Self::Encoder(form) => form.context(),
            Self::Candle(form) => form.context,
        };
        if configured == 0 { made_for } else { made_for.min(configured) }
    }

    /// Logits of a token.
    pub fn vocab(&self) -> u64 {
        match self {
            Self::Decoder(shape) => shape.vocab,
            Self::Encoder(form) => form.vocab(),
            Self::Candle(form) => form.vocab,
        }
    }

    /// Many sequences at once.
    pub fn is_batched(&self) -> bool {
        matches!(self, Self::Decoder(_))
    }

    /// It makes vectors of texts, and no text.
    pub fn encodes(&self) -> bool {
        matches!(self, Self::Encoder(_))
    }

    /// What can be run out of GGUF, by name, in the order in which errors list it.
    pub fn of_gguf() -> Vec<String> {
        let ours = Architecture::ALL.iter().map(|a| a.name());
        ours.chain(candle::gguf_names()).map(str::to_owned).collect()
    }

    /// What can be run out of safetensors.
    pub fn of_safetensors() -> Vec<String> {
        let ours = Architecture::ALL.iter().map(|a| a.name());
        ours.chain(encoder_types()).chain(candle::model_types()).map(str::to_owned).collect()
    }
}
