//! Configuration: TOML, parsed twice. [`raw`] mirrors the file, [`Config`] is what the rest of the daemon sees.

mod raw;
#[cfg(test)]
mod reference;
mod source;
mod token;
mod typo;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use neuron_protocol::model_id::ModelId;

use crate::{
    engine::{KvFormat, MAX_SEQUENCES},
    preflight::CacheLimits,
    sources::Pace,
};

pub use token::{Scope, Token};

/// More devices than any host has sockets.
const MAX_CPU_DEVICES: usize = 16;
/// A source by this name exists without being configured.
pub const HUGGINGFACE: &str = "huggingface";

/// The daemon's configuration, valid in itself. Nothing downstream checks it again.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// What the daemon calls itself; the host's name unless set.
    pub name: String,
    /// Bearer tokens, one of which every request must carry; none: open to whoever can connect.
    pub tokens: Vec<Token>,
    /// Whoever can connect is let in, wherever it listens.
    pub insecure_open: bool,
    /// How long running requests may go on after the signal to stop.
    pub drain: Duration,
    /// Model ids that are loaded at start, in order.
    pub preload: Vec<String>,
    /// Other nodes may fetch the models that are in the caches here.
    pub share_models: bool,
    pub engine: Engine,
    pub sources: BTreeMap<String, Source>,
    /// The source of an id that names none; a key of [`Config::sources`].
    pub default_source: String,
}

/// Which devices compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Devices {
    /// The GPUs that this build and the driver can use; where there is none, the CPU.
    #[default]
    Auto,
    /// The CPU, whatever else there is.
    Cpu,
    /// The GPUs; without any the daemon does not start.
    Cuda,
}

/// Limits of the inference engine.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Threads that compute; 0: all cores.
    pub threads: usize,
    /// Which devices compute.
    pub devices: Devices,
    /// Where the CPU computes: devices that it is divided into, each with its share of the threads.
    pub cpu_devices: usize,
    /// Whether the daemon ends, to be restarted, once a device is lost and cannot be set up again.
    pub exit_when_lost: bool,
    /// Whether models in parts on several GPUs meet by NCCL.
    pub nccl: bool,
    /// MiB of the host's memory, pinned, that models of all GPUs together may be parked in; `None`: a quarter of what the host
    /// has.
    pub park_mb: Option<u64>,
    /// Tokens of prompt and answer together; 0: what the model was made for.
    pub max_context: u64,
    /// Requests that may wait for one model; one more is refused with 503.
    pub max_queue_depth: u64,
    /// How long a request may wait before it is refused with 503.
    pub queue_timeout: Duration,
    /// MiB that models may take on each device; 0: what it has.
    pub device_memory_mb: u64,
    /// Tokens of an answer where the request sets no limit; 0: until the window is full.
    pub default_max_tokens: u64,
    /// Requests of a model that run at once; from 1 to 64.
    pub max_sequences: usize,
    /// MiB for the keys and values of each model; 0: as its window needs.
    pub kv_cache_mb: u64,
    /// How keys and values are held.
    pub kv_cache: KvFormat,
}

impl Engine {
    /// Threads that compute, on each device that the CPU is divided into.
    pub fn threads(&self) -> usize {
        (self.all_threads() / self.cpu_devices).max(1)
    }

    /// MiB that models of all GPUs together may be parked in.
    pub(crate) fn park_mb(&self) -> u64 {
        self.park_mb.unwrap_or_else(|| crate::host::memory().total_mb / 4)
    }

    pub(crate) fn all_threads(&self) -> usize {
        if self.threads == 0 { cores() } else { self.threads }
    }

    /// What a model's cache may take on a CPU.
    pub fn cache_limits(&self) -> CacheLimits {
        CacheLimits {
            max_context: self.max_context,
            kv_cache_mb: self.kv_cache_mb,
            format: self.kv_cache,
            gpu: None,
        }
    }
}

/// Where models come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Base URLs of servers that speak the Hugging Face hub's API, asked in their order; none: the hub's own.
    pub endpoints: Vec<String>,
    /// Folders of this host, in whose place there is no server and no cache.
    pub roots: Vec<PathBuf>,
    /// Bearer token for the endpoints. The one of the hub's own tools goes to the hub alone.
    pub token: Option<String>,
    /// In the hub's layout: `models--org--name/{refs,snapshots,blobs}`.
    pub cache_dir: PathBuf,
    /// Never touch the network.
    pub offline: bool,
    /// A download that brings no byte for this long has failed.
    pub stall: Duration,
    /// Pieces of a model that are fetched at a time.
    pub connections: usize,
    /// How fast all downloads together may be.
    pub pace: Arc<Pace>,
}

/// Why a configuration cannot be used. The text names the file, and the line and key where there are any.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ConfigError(String);

/// Reads environment variables, so that tests need not change the process's own.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment.
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Config {
    /// Reads and validates the file at `path`.
    pub fn load(path: &Path, env: Env<'_>) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError(format!("{}: cannot be read: {e}", path.display())))?;
        Self::parse(&text, &path.display().to_string(), env)
    }

    /// Validates `text`, which messages call `file`.
    pub fn parse(text: &str, file: &str, env: Env<'_>) -> Result<Self, ConfigError> {
        let raw: raw::File = toml::from_str(text).map_err(|e| ConfigError(typo::explain(file, text, &e)))?;
        let at = |key: &str, problem: String| ConfigError(format!("{file}: {key}: {problem}"));

        let listen = raw.neuron.listen.parse().map_err(|_| {
            let got = &raw.neuron.listen;
            at("neuron.listen", format!("{got:?} is not an address; expected one like \"127.0.0.1:13131\""))
        })?;
        let tokens = token::all(&raw.neuron, file, env)?;
        let guarded = !tokens.is_empty() || raw.neuron.insecure_open;
        check_door(listen, guarded).map_err(|e| at("neuron.listen", e))?;
        for id in &raw.neuron.preload {
            ModelId::parse(id).map_err(|e| at("neuron.preload", format!("{id:?} is not a model id: {e}")))?;
        }
        let mut sources = BTreeMap::new();
        for (name, source) in &raw.sources {
            let key = format!("sources.{name}");
            sources.insert(name.clone(), source::build(name, source, env).map_err(|e| at(&key, e))?);
        }
        if !sources.contains_key(HUGGINGFACE) {
            let source = source::build(HUGGINGFACE, &raw::Source::default(), env);
            sources.insert(HUGGINGFACE.to_owned(), source.map_err(|e| at("sources.huggingface", e))?);
        }
        if !sources.contains_key(&raw.default_source) {
            let known = sources.keys().cloned().collect::<Vec<_>>().join(", ");
            let got = &raw.default_source;
            return Err(at("default_source", format!("{got:?} is no source; there are {known}")));
        }
        Ok(Self {
            listen,
            name: raw.neuron.name.unwrap_or_else(crate::host::hostname),
            tokens,
            insecure_open: raw.neuron.insecure_open,
            drain: Duration::from_secs(raw.neuron.drain_secs),
            preload: raw.neuron.preload,
            share_models: raw.neuron.share_models,
            engine: Engine {
                threads: raw.engine.threads,
                devices: raw.engine.devices,
                cpu_devices: match raw.engine.cpu_devices {
                    n if (1..=MAX_CPU_DEVICES).contains(&n) => n,
                    n => {
                        let problem = format!("{n} is not from 1 to {MAX_CPU_DEVICES}");
                        return Err(at("engine.cpu_devices", problem));
                    }
                },
                exit_when_lost: raw.engine.exit_when_lost,
                nccl: raw.engine.nccl,
                park_mb: raw.engine.park_mb,
                max_context: raw.engine.max_context,
                max_queue_depth: raw.engine.max_queue_depth,
                queue_timeout: Duration::from_secs(raw.engine.queue_timeout_secs),
                device_memory_mb: raw.engine.device_memory_mb,
                default_max_tokens: raw.engine.default_max_tokens,
                max_sequences: match raw.engine.max_sequences {
                    n if (1..=MAX_SEQUENCES).contains(&n) => n,
                    n => {
                        return Err(at(
                            "engine.max_sequences",
                            format!("{n} is not from 1 to {MAX_SEQUENCES}"),
                        ));
                    }
                },
                kv_cache_mb: raw.engine.kv_cache_mb,
                kv_cache: raw.engine.kv_cache.into(),
            },
            sources,
            default_source: raw.default_source,
        })
    }
}

impl Config {
    /// The same on another address, under the same rule for open doors.
    pub fn listening_on(self, listen: SocketAddr) -> Result<Self, ConfigError> {
        let guarded = !self.tokens.is_empty() || self.insecure_open;
        check_door(listen, guarded).map_err(|e| ConfigError(format!("--listen: {e}")))?;
        Ok(Self { listen, ..self })
    }
}

fn check_door(listen: SocketAddr, guarded: bool) -> Result<(), String> {
    if guarded || is_sheltered(listen) {
        return Ok(());
    }
    Err(format!(
        "{listen} can be reached from beyond this host's private networks; set token_env, \
         or insecure_open = true where something else guards the port"
    ))
}

fn secret(variable: &str, env: Env<'_>) -> Result<String, String> {
    match env(variable) {
        Some(token) if !token.trim().is_empty() => Ok(token.trim().to_owned()),
        Some(_) => Err(format!("the environment variable {variable} is set but empty")),
        None => Err(format!("the environment variable {variable} is not set")),
    }
}

/// Loopback, RFC 1918, link-local and unique local addresses: not reachable from the internet.
fn is_sheltered(listen: SocketAddr) -> bool {
    match listen.ip() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests;
