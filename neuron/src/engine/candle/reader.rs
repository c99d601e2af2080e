//! A model's tensors, as candle-transformers asks for them by name.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};

use crate::{
    folder::{FolderError, Problem},
    safetensors::Safetensors,
};

/// What candle calls a head that a file may leave out, because it is the embeddings.
const HEADS: [&str; 1] = ["lm_head.weight"];
/// What files call the embeddings.
const EMBEDDINGS: [&str; 4] = [
    "model.embed_tokens.weight",
    "transformer.word_embeddings.weight",
    "transformer.wte.weight",
    "backbone.embeddings.weight",
];

/// Tensors of one model's files.
#[derive(Clone)]
pub(super) struct Reader {
    files: Arc<Safetensors>,
    name: fn(&str) -> String,
    /// Config.json does not say that the head is a matrix of its own.
    may_be_tied: bool,
    mode: Mode,
}

#[derive(Clone)]
enum Mode {
    /// Hands out tensors that take no memory, and notes what was asked for.
    Check(Arc<Mutex<Asked>>),
    /// Reads each tensor once.
    Load(Arc<Mutex<HashMap<String, Tensor>>>),
}

/// What a model was built of.
#[derive(Default)]
pub(super) struct Asked {
    /// Elements by the file's name.
    pub(super) tensors: BTreeMap<String, u64>,
    pub(super) failed: Option<FolderError>,
}

impl Reader {
    pub(super) fn checking(files: Arc<Safetensors>, name: fn(&str) -> String) -> (Self, Arc<Mutex<Asked>>) {
        let asked = Arc::default();
        (Self::new(files, name, Mode::Check(Arc::clone(&asked))), asked)
    }

    /// Every builder made from it shares what was read.
    pub(super) fn loading(files: Arc<Safetensors>, name: fn(&str) -> String) -> Self {
        Self::new(files, name, Mode::Load(Arc::default()))
    }

    fn new(files: Arc<Safetensors>, name: fn(&str) -> String, mode: Mode) -> Self {
        let may_be_tied = files.config()["tie_word_embeddings"] != false;
        Self { files, name, may_be_tied, mode }
    }

    pub(super) fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, Device::Cpu)
    }

    /// The file's name for a tensor, by candle's; `None`: it is not there.
    fn find(&self, name: &str) -> Option<String> {
        let own = (self.name)(name);
        if self.files.dims(&own).is_some() {
            return Some(own);
        }
        let embeddings = || EMBEDDINGS.into_iter().find(|name| self.files.dims(name).is_some());
        (self.may_be_tied && HEADS.contains(&name)).then(embeddings).flatten().map(str::to_owned)
    }

    fn tensor(&self, name: &str) -> std::result::Result<(String, Tensor), FolderError> {
        let missing = || self.files.missing(&(self.name)(name));
        let found = self.find(name).ok_or_else(missing)?;
        let dims = self.files.dims(&found).ok_or_else(missing)?;
        let tensor = match &self.mode {
            Mode::Check(asked) => {
                self.files.float(&found)?;
                lock(asked).tensors.insert(found.clone(), dims.iter().map(|d| *d as u64).product());
                // Every element is the same one.
                Tensor::zeros(1, DType::F32, &Device::Cpu).and_then(|zero| zero.broadcast_as(dims))
            }
            Mode::Load(held) => {
                let mut held = lock(held);
                match held.get(&found) {
                    Some(tensor) => Ok(tensor.clone()),
                    None => {
                        let tensor = self.files.tensor(&found);
                        if let Ok(tensor) = &tensor {
                            held.insert(found.clone(), tensor.clone());
                        }
                        tensor
                    }
                }
            }
        };
        let tensor = tensor.map_err(|e| self.files.problem(&found, Problem::Io(e.to_string())))?;
        Ok((found, tensor))
    }

    /// As candle takes errors; what went wrong is kept for whoever checks.
    fn failed(&self, error: FolderError) -> Error {
        let text = Error::Msg(error.to_string());
        if let Mode::Check(asked) = &self.mode {
            lock(asked).failed.get_or_insert(error);
        }
        text
    }
}

impl SimpleBackend for Reader {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let (found, tensor) = self.tensor(name).map_err(|e| self.failed(e))?;
        if *tensor.shape() != shape {
            let dims = tensor.dims().iter().map(|d| *d as u64).collect();
            let problem = Problem::Shape { name: found.clone(), dims };
            return Err(self.failed(self.files.problem(&found, problem)));
        }
        tensor.to_dtype(dtype)?.to_device(device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let (_, tensor) = self.tensor(name).map_err(|e| self.failed(e))?;
        tensor.to_dtype(dtype)?.to_device(device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
