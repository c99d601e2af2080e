use serde::{Deserialize, Serialize};

/// An error as OpenAI shapes it: `{"error": {message, type, code, param, …}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    pub error: ErrorBody,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    #[serde(default)]
    pub message: String,
    #[serde(default, rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub code: Option<String>,
    #[serde(default)]
    pub param: Option<String>,
    /// `context_length_exceeded`: tokens of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_len: Option<u64>,
    /// `context_length_exceeded`: tokens that fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// `insufficient_vram`, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_mb: Option<u64>,
    /// `insufficient_vram`, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_mb: Option<u64>,
}

/// Lifecycle errors outside preflight: `{"error": text, "code"?: "cuda_unavailable"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// Why a model cannot be loaded, found out before any device memory is touched:
/// the `error` of a 422 from `POST /models/load`, told apart by `kind`.
///
/// On the wire each carries a `message` for people beside its fields: see [`LoadError::message`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LoadError {
    RepoFetchFailed {
        model_id: String,
        cause: String,
    },
    EmptyRepo {
        model_id: String,
    },
    TpRequiresSafetensors {
        model_id: String,
        tp_size: u32,
        gguf_quants: Vec<String>,
        suggestion: String,
    },
    /// It cannot be shared out over so many devices.
    TpUnsupported {
        model_id: String,
        tp_size: u32,
        cause: String,
    },
    QuantNotFound {
        model_id: String,
        requested: String,
        available: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nearest: Option<String>,
    },
    /// Its only weights are cut into several files, of which some are missing.
    SplitWeights {
        model_id: String,
        parts: Vec<String>,
    },
    /// Neither reachable nor in the cache.
    OfflineAndNotCached {
        model_id: String,
        cause: String,
    },
    /// The file breaks its own format: cut short, no magic, a length past its end.
    InvalidFile {
        model_id: String,
        file: String,
        cause: String,
    },
    UnsupportedArchitecture {
        model_id: String,
        architecture: String,
        supported: Vec<String>,
    },
    /// The device's kernels cannot compute it; others might.
    UnsupportedOnDevice {
        model_id: String,
        cause: String,
    },
    /// The file's pre-tokenizer has no rule here; guessing would split text wrongly without a sign of it.
    UnsupportedTokenizer {
        model_id: String,
        tokenizer: String,
        supported: Vec<String>,
    },
    UnsupportedQuant {
        model_id: String,
        quant: String,
        tensor: String,
    },
    InsufficientVram {
        model_id: String,
        required_mb: u64,
        free_mb: u64,
        device: u32,
    },
    /// Its source answers, and has no such model, or does not show it to this token.
    RepoNotFound {
        model_id: String,
        endpoint: String,
    },
    RevisionNotFound {
        model_id: String,
        revision: String,
    },
    /// 401 or 403 of its source.
    Unauthorized {
        model_id: String,
        endpoint: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// 429 of its source.
    RateLimited {
        model_id: String,
        endpoint: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_secs: Option<u64>,
    },
    /// Its files do not fit where they are kept.
    InsufficientDisk {
        model_id: String,
        required_mb: u64,
        free_mb: u64,
        path: String,
    },
    /// What came is not what its source says it is. Nothing of it is kept.
    CorruptDownload {
        model_id: String,
        file: String,
        cause: String,
    },
    UnknownSource {
        model_id: String,
        source: String,
        known: Vec<String>,
    },
    InvalidModelId {
        model_id: String,
        cause: String,
    },
}

impl LoadError {
    /// Seconds after which the same load may succeed with nobody doing anything about it; `None`: it will not. Then
    /// the refusal is about the model and how it is asked for, else about the node and its network.
    pub fn passes_in(&self) -> Option<u64> {
        match self {
            Self::InsufficientVram { .. } | Self::RepoFetchFailed { .. } => Some(2),
            Self::RateLimited { retry_after_secs, .. } => Some(retry_after_secs.unwrap_or(60)),
            Self::OfflineAndNotCached { .. } | Self::InsufficientDisk { .. } => Some(60),
            _ => None,
        }
    }

    /// One sentence for a person: what is wrong and what to do.
    #[expect(clippy::too_many_lines, reason = "one for each kind")]
    pub fn message(&self) -> String {
        match self {
            Self::RepoFetchFailed { model_id, cause } => {
                format!("{model_id} could not be fetched: {cause}")
            }
            Self::EmptyRepo { model_id } => format!("{model_id} holds no weights that neuron can load"),
            Self::TpRequiresSafetensors { model_id, tp_size, suggestion, .. } => format!(
                "{model_id} has GGUF weights, which cannot be split over {tp_size} devices; {suggestion}"
            ),
            Self::TpUnsupported { model_id, tp_size, cause } => {
                format!(
                    "{model_id} cannot be spread over {tp_size} devices: {cause}; leave tensor_parallel out"
                )
            }
            Self::QuantNotFound { model_id, requested, available, nearest } => {
                let hint = nearest.as_ref().map(|n| format!("; nearest: {n}")).unwrap_or_default();
                format!("{model_id} has no quant {requested:?}; it has {}{hint}", available.join(", "))
            }
            Self::SplitWeights { model_id, parts } => format!(
                "{model_id} has its weights in parts, of which only {} are there; get the others too",
                parts.join(", ")
            ),
            Self::OfflineAndNotCached { model_id, cause } => format!(
                "{model_id} is not in the cache and its source cannot be reached ({cause}); \
                 fetch it where there is a network, or correct the id"
            ),
            Self::InvalidFile { model_id, file, cause } => {
                format!("{model_id}: {file} is damaged: {cause}; delete it and load again")
            }
            Self::UnsupportedOnDevice { model_id, cause } => {
                format!("{model_id} cannot be computed on the device: {cause}; a neuron on a CPU may")
            }
            Self::UnsupportedArchitecture { model_id, architecture, supported } => format!(
                "{model_id} has the architecture {architecture:?}; supported are {}",
                supported.join(", ")
            ),
            Self::UnsupportedTokenizer { model_id, tokenizer, supported } => {
                format!("{model_id} splits text by {tokenizer:?}; supported are {}", supported.join(", "))
            }
            Self::UnsupportedQuant { model_id, quant, tensor } => {
                format!(
                    "{model_id}: tensor {tensor} has the format {quant}, which neuron cannot compute with"
                )
            }
            Self::InsufficientVram { model_id, required_mb, free_mb, device } => format!(
                "{model_id} needs {required_mb} MiB on device {device}, where {free_mb} MiB are free; \
                 unload another model, choose a smaller quant, or set a smaller engine.max_context"
            ),
            Self::RepoNotFound { model_id, endpoint } => format!(
                "{model_id} is not at {endpoint}, or not for this token to see; correct the id, or set the \
                 source's auth_env"
            ),
            Self::RevisionNotFound { model_id, revision } => {
                format!(
                    "{model_id} has no revision {revision:?}; correct what follows the @, or leave it out"
                )
            }
            Self::Unauthorized { model_id, endpoint, has_token: true } => format!(
                "{endpoint} does not give {model_id} to the token that was sent; ask for access there, or set \
                 another token"
            ),
            Self::Unauthorized { model_id, endpoint, has_token: false } => format!(
                "{endpoint} gives {model_id} only to those with a token; name the variable that holds one in \
                 the source's auth_env"
            ),
            Self::RateLimited { model_id, endpoint, retry_after_secs } => {
                let when = retry_after_secs.map_or("later".to_owned(), |secs| format!("in {secs} s"));
                format!(
                    "{model_id} cannot be fetched now, for {endpoint} gets too many requests; try again {when}"
                )
            }
            Self::InsufficientDisk { model_id, required_mb, free_mb, path } => format!(
                "{model_id} needs {required_mb} MiB in {path}, where {free_mb} MiB are free; remove models \
                 with `neuron rm`, or set another cache_dir"
            ),
            Self::CorruptDownload { model_id, file, cause } => {
                format!("{model_id}: {file} did not come as its source has it: {cause}; load again")
            }
            Self::UnknownSource { model_id, source, known } => format!(
                "{model_id} names the source {source:?}, which is not configured; known are {}",
                known.join(", ")
            ),
            Self::InvalidModelId { model_id, cause } => format!("{model_id:?} is not a model id: {cause}"),
        }
    }
}

/// Body of a refused `POST /models/load`: `{"error": {"kind": …, its fields…, "message": …}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadFailure {
    pub error: LoadFailureBody,
}

/// What a 422 says beside `message`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadFailureBody {
    #[serde(flatten)]
    pub cause: LoadError,
    /// Older daemons send none.
    #[serde(default)]
    pub message: String,
}

impl From<LoadError> for LoadFailure {
    fn from(cause: LoadError) -> Self {
        let message = cause.message();
        Self { error: LoadFailureBody { cause, message } }
    }
}
