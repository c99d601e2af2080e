use serde::{Deserialize, Serialize};

/// `POST /models/load`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadRequest {
    /// `[scheme:]org/name[@revision]`.
    pub model_id: String,
    #[serde(default = "candle")]
    pub harness: String,
    /// `"Q4_K_M"` and the like; absent: the daemon chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor_parallel: Option<u32>,
    /// Device indices; absent: the daemon chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<u32>>,
}

fn candle() -> String {
    "candle".into()
}

/// Answer of `POST /models/load` once the model is resident: `{"status":"loaded"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadResponse {
    pub status: String,
}

/// `POST /models/unload`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnloadRequest {
    pub model_id: String,
}

/// Answer of `POST /models/unload` once the memory is back: `{"status":"unloaded"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnloadResponse {
    pub status: String,
}

/// `GET /models/{id}/endpoint`. A loopback host in the address means: the host that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub url: String,
}

/// `GET /models/{id}/capabilities`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    #[serde(default)]
    pub capabilities: Vec<String>,
}

/// `POST /tokenize`: tokens of a chat request by the model's own template and tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCount {
    pub input_tokens: u64,
}
