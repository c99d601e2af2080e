use serde::{Deserialize, Serialize};

/// One entry of `GET /models`: a model that the daemon has or is getting.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    pub id: String,
    #[serde(default)]
    pub harness: String,
    pub status: ModelStatus,
    /// Indices of the devices it lies on.
    #[serde(default)]
    pub devices: Vec<u32>,
    /// MiB over all devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram_used_mb: Option<u64>,
    #[serde(default)]
    pub capabilities: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    #[serde(default)]
    pub tool_call: bool,
    #[serde(default)]
    pub reasoning: bool,
    /// What computes it: `batched`, many requests at once with a prefix cache, or `single`, one at a time.
    /// Beyond the fleet's common wire format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Absent means servable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servable: Option<Servable>,
    /// Tells one load of it from the next. Beyond the fleet's common wire format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

impl ModelInfo {
    /// Whether requests may be sent to it now.
    pub fn can_serve(&self) -> bool {
        self.status == ModelStatus::Loaded && self.servable.as_ref().is_none_or(|s| s.ok)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelStatus {
    Loaded,
    #[default]
    Unloaded,
    Loading,
    Reloading,
    Recovering,
    /// Its weights lie in the host's memory and are back on the device sooner than by a load.
    Parked,
    /// A state of a newer daemon; nothing is sent to it.
    #[serde(other)]
    Unknown,
}

/// Lengths in tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Prompt and answer together.
    pub context: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<u64>,
    #[serde(default)]
    pub output: u64,
}

/// USD per million tokens. Absent = not priced, 0.0 = free.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Servable {
    pub ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
