//! cortex.toml as it stands in the file. Every unknown key is an error.

use super::Address;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) gateway: Gateway,
    #[serde(default)]
    pub(super) policies: Policies,
    #[serde(default)]
    pub(super) routing: Routing,
    #[serde(default)]
    pub(super) eviction: Eviction,
    #[serde(default)]
    pub(super) telemetry: Telemetry,
    #[serde(default)]
    pub(super) neurons: Vec<Neuron>,
    #[serde(default)]
    pub(super) upstreams: Vec<Upstream>,
    #[serde(default)]
    pub(super) keys: Vec<Key>,
    #[serde(default)]
    pub(super) admin_keys: Vec<AdminKey>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Gateway {
    pub(super) listen: Address,
    pub(super) metrics_listen: Address,
    pub(super) admin_listen: Address,
    pub(super) tls: Option<Tls>,
    /// The catalogue, relative to this file.
    pub(super) models: Option<String>,
    /// More `[[keys]]`, relative to this file; empty: none.
    pub(super) keys_file: Option<String>,
    /// Usage of each key, relative to this file; empty: none is kept.
    pub(super) usage_store: Option<PathBuf>,
    pub(super) body_limit_mb: usize,
    pub(super) body_timeout_secs: f64,
    pub(super) keepalive_after_secs: f64,
    pub(super) max_wait_secs: f64,
    pub(super) max_waiting: usize,
    pub(super) stall_timeout_secs: f64,
    pub(super) drain_delay_secs: f64,
    pub(super) drain_secs: f64,
    pub(super) poll_interval_secs: f64,
    pub(super) node_return_secs: f64,
    pub(super) allow_anonymous: bool,
    pub(super) route_header: bool,
    pub(super) keep_prompts: bool,
}

fn tcp(ip: [u8; 4], port: u16) -> Address {
    Address::Tcp((ip, port).into())
}

/// Files, relative to this one.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    #[serde(default)]
    pub(super) admin: bool,
    #[serde(default)]
    pub(super) metrics: bool,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            listen: tcp([0, 0, 0, 0], 31313),
            metrics_listen: tcp([0, 0, 0, 0], 31314),
            admin_listen: tcp([127, 0, 0, 1], 31315),
            tls: None,
            models: None,
            keys_file: None,
            usage_store: None,
            body_limit_mb: 32,
            body_timeout_secs: 60.0,
            keepalive_after_secs: 10.0,
            max_wait_secs: 600.0,
            max_waiting: 4096,
            stall_timeout_secs: 120.0,
            drain_delay_secs: 0.0,
            drain_secs: 30.0,
            poll_interval_secs: 1.0,
            node_return_secs: 30.0,
            allow_anonymous: false,
            route_header: false,
            keep_prompts: false,
        }
    }
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Policies {
    pub(super) dirs: Vec<PathBuf>,
    pub(super) settings: BTreeMap<String, toml::Table>,
    pub(super) component_limit_mb: Option<u64>,
    /// Compiled code; empty: none is kept.
    pub(super) cache_dir: Option<PathBuf>,
    /// Decisions, for `cortex policy replay`.
    pub(super) record: Option<PathBuf>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Routing {
    pub(super) policy: String,
    pub(super) shadow: Option<String>,
    pub(super) canary: Option<Canary>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Canary {
    pub(super) policy: String,
    pub(super) percent: u8,
}

impl Default for Routing {
    fn default() -> Self {
        Self { policy: "affinity".into(), shadow: None, canary: None }
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Eviction {
    pub(super) strategy: String,
    pub(super) defrag_after_cycles: u32,
    pub(super) patience_secs: f64,
}

impl Default for Eviction {
    fn default() -> Self {
        Self { strategy: "lru".into(), defrag_after_cycles: 0, patience_secs: 10.0 }
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Telemetry {
    pub(super) otlp_endpoint: String,
    pub(super) service_name: String,
    pub(super) sample: f64,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { otlp_endpoint: String::new(), service_name: "cortex".into(), sample: 1.0 }
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Neuron {
    pub(super) name: String,
    pub(super) endpoint: String,
    pub(super) token_env: Option<String>,
    pub(super) ca_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) http2: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Upstream {
    pub(super) name: String,
    /// With the path of its API: `https://HOST/v1`.
    pub(super) endpoint: String,
    /// What it speaks, where that is not OpenAI.
    pub(super) dialect: Option<String>,
    pub(super) key_env: Option<String>,
    /// The header of the key, where it is not a bearer token.
    pub(super) key_header: Option<String>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// From headers to variables that hold their values.
    #[serde(default)]
    pub(super) headers_env: BTreeMap<String, String>,
    pub(super) ca_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) http2: bool,
    #[serde(default)]
    pub(super) models: BTreeMap<String, String>,
    pub(super) max_concurrent: Option<u32>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) key_env: Option<String>,
    pub(super) sha256: Option<OneOrMany>,
    #[serde(default)]
    pub(super) priority: crate::fleet::Priority,
    #[serde(default)]
    pub(super) models: Vec<String>,
    pub(super) requests_per_minute: Option<u32>,
    pub(super) tokens_per_minute: Option<u64>,
    pub(super) max_concurrent: Option<u32>,
    #[serde(default)]
    pub(super) caps: Vec<Cap>,
    pub(super) balance: Option<Balance>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminKey {
    pub(super) name: String,
    pub(super) key_env: Option<String>,
    pub(super) sha256: Option<OneOrMany>,
    pub(super) roles: Vec<super::Role>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cap {
    pub(super) window: String,
    pub(super) requests: Option<u64>,
    pub(super) tokens: Option<u64>,
    pub(super) usd: Option<f64>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Balance {
    pub(super) requests: Option<u64>,
    pub(super) tokens: Option<u64>,
    pub(super) usd: Option<f64>,
}

/// One value, or a list of them.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}
