//! A model that runs one sequence at a time.

use candle_core::{DType, Device, Tensor};

use super::{
    Form,
    form::{Source, for_context},
    nets::Net,
    reader::Reader,
};
use crate::engine::{Batch, Limits, Logits, Model, ModelError, Room, Rows, Weights, weights::Files};

pub(crate) struct Single {
    form: Form,
    /// Builds it anew of what was read.
    build: Box<dyn Fn() -> candle_core::Result<Box<dyn Net>>>,
    net: Box<dyn Net>,
    context: usize,
    /// Tokens of the sequence that it holds.
    done: usize,
    logits: Vec<f32>,
}

impl Single {
    /// Reads the weights.
    pub(crate) fn load(form: &Form, weights: &Weights, room: Room) -> Result<Self, ModelError> {
        let build: Box<dyn Fn() -> _> = match (form.source.clone(), weights.files.clone()) {
            (Source::Safetensors(entry, config), Files::Safetensors(files)) => {
                let reader = Reader::loading(files, entry.name);
                let config = for_context(entry, &config, room.context);
                Box::new(move || (entry.build)(&config, reader.builder()))
            }
            (Source::Gguf(entry), Files::Gguf { path, .. }) => {
                Box::new(move || (entry.build)(&path, room.context))
            }
            _ => return Err(ModelError(format!("{} comes in another kind of file", form.name))),
        };
        let net = build().map_err(in_words)?;
        let context = usize::try_from(room.context).unwrap_or(usize::MAX);
        Ok(Self { form: form.clone(), build, net, context, done: 0, logits: Vec::new() })
    }

    /// Forgets the sequence that it holds.
    fn begin(&mut self) -> Result<(), ModelError> {
        if self.done == 0 {
            return Ok(());
        }
        // Until it is done, nothing can go on from here.
        self.done = usize::MAX;
        if !self.net.clear().map_err(in_words)? {
            // Of the tensors that are there already.
            self.net = (self.build)().map_err(in_words)?;
        }
        self.done = 0;
        Ok(())
    }
}

impl Model for Single {
    fn limits(&self) -> Limits {
        let block_bytes = usize::try_from(self.form.position_bytes).unwrap_or(usize::MAX);
        Limits {
            sequences: 1,
            tokens: self.form.chunk.max(super::catalogue::CHUNK),
            block: self.context,
            blocks: 1,
            block_bytes: block_bytes.saturating_mul(self.context),
            every_row: false,
            whole: false,
            shares_blocks: false,
            draws: false,
        }
    }

    fn forward(&mut self, batch: &Batch<'_>) -> Result<Logits<'_>, ModelError> {
        let [part] = batch.parts else {
            return Err(ModelError(format!("{} sequences, where one can run", batch.parts.len())));
        };
        if part.position == 0 {
            self.begin()?;
        }
        if part.position != self.done {
            return Err(ModelError("the sequence before it was cut short".to_owned()));
        }
        let mut last = None;
        for tokens in batch.tokens.chunks(self.form.chunk) {
            let ids = Tensor::new(tokens, &Device::Cpu).and_then(|ids| ids.unsqueeze(0)).map_err(in_words)?;
            let position = std::mem::replace(&mut self.done, usize::MAX);
            last = Some(self.net.forward(&ids, position).map_err(in_words)?);
            self.done = position + tokens.len();
        }
        let vocab = usize::try_from(self.form.vocab).unwrap_or(usize::MAX);
        self.logits.clear();
        if let Some(logits) = last.filter(|_| part.rows != Rows::None) {
            let flat = logits.to_dtype(DType::F32).and_then(|logits| logits.flatten_all()?.to_vec1::<f32>());
            let flat = flat.map_err(in_words)?;
            // A vocabulary may be padded, and some give every token's.
            let rows = logits.dims().last().copied().unwrap_or(vocab).max(1);
            let row = flat.len().checked_sub(rows).and_then(|from| flat.get(from..from + vocab));
            let row = row.ok_or_else(|| ModelError(format!("logits of the shape {:?}", logits.dims())))?;
            self.logits.extend_from_slice(row);
        }
        Ok(Logits { data: &mut self.logits, vocab, states: &[], width: 0, drawn: &[] })
    }

    fn weights_bytes(&self) -> u64 {
        self.form.weights_bytes
    }

    fn rest(&mut self) {
        // A conversation's state is of no use to the next, and may be large. What fails here fails again there.
        self.begin().ok();
    }
}

fn in_words(error: candle_core::Error) -> ModelError {
    // What follows is where in the library it happened, if the environment asks for that.
    ModelError(error.to_string().lines().next().unwrap_or_default().to_owned())
}
