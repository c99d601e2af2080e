use serde::{Deserialize, Serialize};

/// `GET /health`: what changes from second to second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    #[serde(default)]
    pub uptime_secs: u64,
    #[serde(default)]
    pub devices: Vec<DeviceHealth>,
    #[serde(default)]
    pub activation: Activation,
    #[serde(default)]
    pub models: Vec<ModelLoad>,
}

/// A device now. All fields are required on the wire, 0 where unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceHealth {
    pub index: u32,
    /// MiB.
    pub vram_used_mb: u64,
    /// MiB.
    pub vram_free_mb: u64,
    pub utilization_pct: u32,
    /// Degrees Celsius.
    pub temp_c: u32,
    /// Absent: it is up. Beyond the fleet's common wire format, as is the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<DeviceCondition>,
    /// Why it is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Why nothing runs on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceCondition {
    /// It failed in a way that stays.
    Poisoned,
    /// It is being set up again.
    Recovering,
    /// It could not be set up again: the daemon has to be restarted.
    Gone,
}

/// Models that the daemon loads by itself at start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    pub state: ActivationState,
    #[serde(default)]
    pub pending: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_progress: Option<String>,
    #[serde(default)]
    pub completed: Vec<String>,
    #[serde(default)]
    pub failed: Vec<FailedActivation>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationState {
    PreWarming,
    #[default]
    Ready,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedActivation {
    pub model_id: String,
    pub error: String,
}

/// How busy a loaded model is. Everything but the first three fields defaults to 0; 0 in a `max_*` means unknown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelLoad {
    pub id: String,
    /// Requests that are generating.
    pub in_flight: u64,
    /// Requests that wait for a place.
    pub queue_depth: u64,
    #[serde(default)]
    pub max_in_flight: u64,
    #[serde(default)]
    pub max_queue_depth: u64,
    #[serde(default)]
    pub rejected_queue_full: u64,
    #[serde(default)]
    pub rejected_timeout: u64,
    #[serde(default)]
    pub rejected_per_principal: u64,
    #[serde(default)]
    pub anon_in_flight: u64,
    #[serde(default)]
    pub anon_max_in_flight: u64,
    #[serde(default)]
    pub rejected_anon_yield: u64,
    #[serde(default)]
    pub rejected_kv_timeout: u64,
    #[serde(default)]
    pub rejected_kv_unservable: u64,
    /// MiB; 0 = admission is not gated by cache memory.
    #[serde(default)]
    pub kv_budget_mb: u64,
    #[serde(default)]
    pub kv_available_mb: u64,
    /// Tokens per second of recent prefills.
    #[serde(default)]
    pub tok_s_prefill: f64,
    /// Tokens per second of recent decoding, one sequence.
    #[serde(default)]
    pub tok_s_decode: f64,
    /// Bytes of the weights as they are held; 0 = unknown. Beyond the fleet's common wire format.
    #[serde(default)]
    pub weights_bytes: u64,
    /// Bytes of the cache that hold something, used or kept. Beyond the fleet's common wire format.
    #[serde(default)]
    pub kv_used_bytes: u64,
    /// Milliseconds since its last request ended, whoever sent it. Beyond the fleet's common wire format, and
    /// left out of `/watch`, where it would change for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
}
