use serde::{Deserialize, Serialize};

/// `GET /version`: which build answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    #[serde(default)]
    pub package_version: String,
    #[serde(default)]
    pub git_sha: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_sha_long: Option<String>,
    #[serde(default)]
    pub git_dirty: bool,
}

/// `GET /discovery`: what the host is; constant while the daemon runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovery {
    #[serde(default)]
    pub hostname: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub kernel: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_version: Option<String>,
    #[serde(default)]
    pub devices: Vec<Device>,
    #[serde(default)]
    pub harnesses: Vec<String>,
    /// Why there is no CUDA device, for a person; absent where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda_unavailable_reason: Option<String>,
    /// Longest prompt that the daemon accepts, in tokens; 0 = unknown.
    #[serde(default)]
    pub max_prompt_tokens: u64,
    /// What it can beyond the fleet's common wire format, by the names in [`feature`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
}

/// Names in [`Discovery::features`].
pub mod feature {
    /// `GET /watch`.
    pub const WATCH: &str = "watch";
    /// `wait` and `lease` of a load, and `load-progress` on `/watch`.
    pub const LOAD_PROGRESS: &str = "load-progress";
    /// `mode`, `min_idle_ms`, `generation` and `holder` of an unload.
    pub const CONDITIONAL_UNLOAD: &str = "conditional-unload";
    /// `POST /models/preflight`.
    pub const PREFLIGHT: &str = "preflight";
    /// `POST /defrag`.
    pub const DEFRAG: &str = "defrag";
    /// `POST /models/park` and `POST /models/wake`.
    pub const PARK: &str = "park";
}

impl Discovery {
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|known| known == feature)
    }
}

/// One device that models can be loaded on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub index: u32,
    #[serde(default)]
    pub name: String,
    /// Memory in MiB.
    #[serde(default)]
    pub vram_total_mb: u64,
    /// As NVIDIA writes it, `"8.9"`; empty for a device that is not CUDA.
    #[serde(default)]
    pub compute_capability: String,
}
