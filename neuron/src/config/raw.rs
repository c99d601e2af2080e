//! The configuration file as it is written. An unknown key is an error.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::KvFormat;

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default = "huggingface")]
    pub(super) default_source: String,
    #[serde(default)]
    pub(super) neuron: Neuron,
    #[serde(default)]
    pub(super) engine: Engine,
    #[serde(default)]
    pub(super) sources: BTreeMap<String, Source>,
}

fn huggingface() -> String {
    super::HUGGINGFACE.to_owned()
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Neuron {
    pub(super) listen: String,
    pub(super) name: Option<String>,
    pub(super) token_env: Option<String>,
    pub(super) tokens: Vec<Token>,
    pub(super) insecure_open: bool,
    pub(super) drain_secs: u64,
    pub(super) preload: Vec<String>,
    pub(super) share_models: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    pub(super) name: String,
    pub(super) token_env: String,
    pub(super) scopes: Vec<super::Scope>,
}

impl Default for Neuron {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:13131".to_owned(),
            name: None,
            token_env: None,
            tokens: Vec::new(),
            insecure_open: false,
            drain_secs: 30,
            preload: Vec::new(),
            share_models: false,
        }
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Engine {
    pub(super) threads: usize,
    pub(super) devices: super::Devices,
    pub(super) cpu_devices: usize,
    pub(super) exit_when_lost: bool,
    pub(super) nccl: bool,
    pub(super) park_mb: Option<u64>,
    pub(super) max_context: u64,
    pub(super) max_queue_depth: u64,
    pub(super) queue_timeout_secs: u64,
    pub(super) device_memory_mb: u64,
    pub(super) default_max_tokens: u64,
    pub(super) max_sequences: usize,
    pub(super) kv_cache_mb: u64,
    pub(super) kv_cache: KvCache,
}

#[derive(Debug, Default, Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum KvCache {
    #[default]
    F16,
    F32,
    F8,
}

impl From<KvCache> for KvFormat {
    fn from(raw: KvCache) -> Self {
        match raw {
            KvCache::F16 => Self::F16,
            KvCache::F32 => Self::F32,
            KvCache::F8 => Self::F8,
        }
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            threads: 0,
            devices: super::Devices::Auto,
            cpu_devices: 1,
            exit_when_lost: false,
            nccl: false,
            park_mb: None,
            max_context: 0,
            max_queue_depth: 32,
            queue_timeout_secs: 120,
            device_memory_mb: 0,
            default_max_tokens: 0,
            max_sequences: 64,
            kv_cache_mb: 0,
            kv_cache: KvCache::F16,
        }
    }
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Source {
    pub(super) endpoint: Option<String>,
    pub(super) endpoints: Vec<String>,
    pub(super) roots: Vec<PathBuf>,
    pub(super) auth_env: Option<String>,
    pub(super) cache_dir: Option<PathBuf>,
    pub(super) offline: Option<bool>,
    pub(super) stall_secs: Option<u64>,
    pub(super) connections: Option<usize>,
    pub(super) max_mb_per_sec: Option<u64>,
}
