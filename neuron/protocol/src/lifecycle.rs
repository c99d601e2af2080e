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
    /// `false`: answered with a 202 once the load is under way; `/watch` says how far it is. Absent: `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<bool>,
    /// Who asks for the load, and for how long nobody else may unload it on condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
}

/// A fresh model is its loader's for a while: those for whom it was loaded are to meet it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Names the gateway; any text that no other gateway has.
    pub holder: String,
    /// Milliseconds, from the moment that the model is resident.
    pub ms: u64,
}

fn candle() -> String {
    "candle".into()
}

/// Answer of `POST /models/load` once the model is resident: `{"status":"loaded"}`. With `wait: false` the
/// status may be `loading`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadResponse {
    pub status: String,
}

/// `POST /models/unload`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnloadRequest {
    pub model_id: String,
    /// Absent: `drain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<UnloadMode>,
    /// With `if_idle`: milliseconds since its last request ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_idle_ms: Option<u64>,
    /// The model that is meant, of several that were loaded under this name one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// With `if_idle`: who asks, for leases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnloadMode {
    /// New requests are refused, those that run finish.
    #[default]
    Drain,
    /// Only where nothing runs or waits; otherwise a 409 says what does.
    IfIdle,
    /// Those that run are ended with an error.
    Now,
}

/// A 409 from `POST /models/unload`: `{"error": {"kind": …, its fields…, "message": …}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnloadRefused {
    pub error: UnloadRefusedBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnloadRefusedBody {
    #[serde(flatten)]
    pub cause: StillNeeded,
    #[serde(default)]
    pub message: String,
}

/// Why a condition of an unload does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StillNeeded {
    /// Requests run or wait.
    Busy { in_flight: u64 },
    /// Its last request ended this many milliseconds ago.
    Used { idle_ms: u64 },
    /// Another gateway loaded it just now.
    Leased { holder: String, ms_left: u64 },
    /// It is another load's.
    Generation { generation: u64 },
}

impl From<StillNeeded> for UnloadRefused {
    fn from(cause: StillNeeded) -> Self {
        let message = match &cause {
            StillNeeded::Busy { in_flight } => format!("{in_flight} requests are with it"),
            StillNeeded::Used { idle_ms } => format!("it was used {idle_ms} ms ago"),
            StillNeeded::Leased { holder, ms_left } => {
                format!("{holder} has just loaded it and keeps it for {ms_left} ms more")
            }
            StillNeeded::Generation { generation } => {
                format!("it was loaded anew since and is generation {generation} now")
            }
        };
        Self { error: UnloadRefusedBody { cause, message } }
    }
}

/// Answer of `POST /defrag`: MiB free over all devices, before and after.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defragged {
    pub free_before_mb: u64,
    pub free_after_mb: u64,
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
