//! A model that reads whole texts and says a vector for each token: BERT and its like.

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::bert;

use super::{Form, form::Source, reader::Reader};
use crate::engine::{Batch, Limits, Logits, Model, ModelError, Room, Weights, weights::Files};

/// Tokens in one forward.
pub(super) const TOKENS: usize = 2048;
/// Texts in one forward.
const TEXTS: usize = 64;

pub(crate) struct Encoder {
    net: bert::BertModel,
    context: usize,
    weights_bytes: u64,
    width: usize,
    /// [tokens, width]
    states: Vec<f32>,
}

/// As candle builds it.
pub(super) fn build(
    config: &serde_json::Value,
    vb: candle_nn::VarBuilder<'_>,
) -> candle_core::Result<bert::BertModel> {
    let config: bert::Config =
        serde::Deserialize::deserialize(config).map_err(|e| candle_core::Error::Msg(format!("{e}")))?;
    bert::BertModel::load(vb, &config)
}

impl Encoder {
    /// Reads the weights.
    pub(crate) fn load(form: &Form, weights: &Weights, room: Room) -> Result<Self, ModelError> {
        let (Source::Safetensors(entry, config), Files::Safetensors(files)) =
            (form.source.clone(), weights.files.clone())
        else {
            return Err(ModelError("it is read from safetensors alone".to_owned()));
        };
        let reader = Reader::loading(files, entry.name);
        let net = build(&config, reader.builder()).map_err(in_words)?;
        let number = |key: &str| config[key].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        Ok(Self {
            net,
            context: usize::try_from(room.context).unwrap_or(usize::MAX),
            weights_bytes: form.weights_bytes,
            width: number("hidden_size"),
            states: Vec::new(),
        })
    }

    /// Runs texts of about one length, each by its place in the batch, and puts their states where they belong.
    fn run(&mut self, group: &[(usize, usize)], tokens: &[u32]) -> candle_core::Result<()> {
        let longest = group.iter().map(|(_, len)| *len).max().unwrap_or(0);
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for (first, len) in group {
            ids.extend_from_slice(&tokens[*first..first + len]);
            ids.resize(ids.len() + longest - len, 0);
            mask.extend((0..longest).map(|at| u32::from(at < *len)));
        }
        let dims = (group.len(), longest);
        let ids = Tensor::from_vec(ids, dims, &Device::Cpu)?;
        let mask = Tensor::from_vec(mask, dims, &Device::Cpu)?;
        let kinds = ids.zeros_like()?;
        let states = self.net.forward(&ids, &kinds, Some(&mask))?;
        let states = states.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        for ((first, len), states) in group.iter().zip(states.chunks_exact(longest * self.width)) {
            let to = &mut self.states[first * self.width..(first + len) * self.width];
            to.copy_from_slice(&states[..len * self.width]);
        }
        Ok(())
    }
}

impl Model for Encoder {
    fn limits(&self) -> Limits {
        Limits {
            sequences: TEXTS,
            tokens: TOKENS.max(self.context),
            block: self.context,
            blocks: TEXTS,
            block_bytes: 0,
            every_row: false,
            shares_blocks: false,
            whole: true,
        }
    }

    fn forward(&mut self, batch: &Batch<'_>) -> Result<Logits<'_>, ModelError> {
        let mut first = 0;
        let mut texts: Vec<(usize, usize)> = Vec::with_capacity(batch.parts.len());
        for part in batch.parts {
            texts.push((first, part.len));
            first += part.len;
        }
        self.states.resize(first * self.width, 0.0);
        // Texts of one length waste nothing on each other.
        texts.sort_by_key(|(_, len)| *len);
        let mut rest = texts.as_slice();
        while let Some((_, shortest)) = rest.first() {
            let count = rest.iter().take_while(|(_, len)| *len <= shortest + shortest / 4 + 8).count();
            let (group, others) = rest.split_at(count);
            self.run(group, batch.tokens).map_err(in_words)?;
            rest = others;
        }
        Ok(Logits { data: &mut [], vocab: 1, states: &self.states[..first * self.width], width: self.width })
    }

    fn weights_bytes(&self) -> u64 {
        self.weights_bytes
    }
}

fn in_words(error: candle_core::Error) -> ModelError {
    // What follows is where in the library it happened, if the environment asks for that.
    ModelError(error.to_string().lines().next().unwrap_or_default().to_owned())
}
