//! Configuration, parsed twice: what stands in the files, then what the program may rely on.

mod address;
mod admin;
mod catalogue;
mod defaults;
mod difference;
mod explain;
mod keys;
mod node;
mod overrides;
mod policies;
mod raw;
#[cfg(test)]
mod reference;
mod reload;
mod settings;
mod telemetry;
mod tls;

pub use address::Address;
pub use admin::{AdminKey, AdminKeys, Role};
pub use catalogue::{Catalogue, Model, Resolved};
pub use defaults::Defaults;
pub use explain::{ConfigError, nearest};
pub use keys::{Cap, Key, Keys, LONGEST_WINDOW, Limits, Quantity, digest};
pub use node::{NodeConfig, Offer, Serves};
pub use policies::Canary;
pub use settings::Setting;
pub use telemetry::Telemetry;
pub use tls::Tls;

use node::Outside;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// cortex.toml and models.toml, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub listen: Address,
    pub metrics_listen: Address,
    pub admin_listen: Address,
    pub tls: Option<Tls>,
    /// Bytes; past it a request gets a 413.
    pub body_limit: usize,
    /// A request whose body has not arrived in this time gets a 408.
    pub body_timeout: Duration,
    /// A streaming client that waited this long gets its 200 and keep-alives.
    pub keepalive_after: Duration,
    /// A request that waited this long for a model, or for a node to begin its answer, gets a 503.
    pub max_wait: Duration,
    /// Requests that wait for one model at most; past it one gets a 429.
    pub max_waiting: usize,
    /// An upstream stream that is silent for this long is broken.
    pub stall_timeout: Duration,
    /// For so long `/health` fails before no more connections are taken.
    pub drain_delay: Duration,
    /// What running requests get at shutdown.
    pub drain: Duration,
    pub poll_interval: Duration,
    /// For so long a node that went down is waited for by requests that no other can serve.
    pub node_return: Duration,
    pub allow_anonymous: bool,
    /// Answers say where they were made, and what they waited for.
    pub route_header: bool,
    /// Stories of requests have what was asked and answered.
    pub keep_prompts: bool,
    /// Read at start only.
    pub telemetry: Telemetry,
    pub keys: Keys,
    pub admin_keys: AdminKeys,
    /// Where usage is kept; read at start only.
    pub usage_store: Option<PathBuf>,
    pub policies: crate::policy::Sources,
    /// Where compiled policies are kept; read at start only.
    pub policy_cache: Option<PathBuf>,
    /// Where decisions are recorded.
    pub record: Option<PathBuf>,
    pub routing_policy: String,
    /// Decides beside the live policy, for comparison only.
    pub shadow_policy: Option<String>,
    pub canary: Option<Canary>,
    pub eviction_policy: String,
    /// Ask a node to give cached memory back after this many loads; 0 = never.
    pub defrag_after_cycles: u32,
    /// Requests that waited this long for a model have others drained for it, where no idle one can go.
    pub eviction_patience: Duration,
    pub nodes: Vec<NodeConfig>,
    pub catalogue: Catalogue,
    /// All of the above as it was said, or not said.
    pub settings: Vec<Setting>,
    /// Files that this came from, to be watched.
    pub files: Vec<PathBuf>,
}

impl Config {
    /// Reads cortex.toml, the catalogue beside it and `CORTEX_*` from the environment.
    ///
    /// Errors name file, line, key and the nearest valid one.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |file: &Path| std::fs::read_to_string(file);
        Self::load_with(path, read, |name| std::env::var(name).ok(), std::env::vars())
    }

    /// Where `path` says that the gateway's admin address is, which needs none of its secrets, and whether it speaks TLS.
    pub fn admin_address(path: &Path) -> Result<(Address, bool), ConfigError> {
        overrides::admin_listen(path, std::env::vars())
    }

    fn load_with(
        path: &Path,
        read: impl Fn(&Path) -> std::io::Result<String>,
        env: impl Fn(&str) -> Option<String>,
        vars: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = read(path).map_err(|e| ConfigError::main_file(path, &e))?;
        let raw: raw::File = explain::parse(path, &text)?;
        let vars: Vec<(String, String)> = vars.collect();
        let mut raw = overrides::apply(raw, path, &text, vars.iter().cloned())?;
        let base = path.parent().unwrap_or(Path::new("."));
        let models = base.join(raw.gateway.models.as_deref().unwrap_or("models.toml"));
        let catalogue = match read(&models) {
            Ok(text) => Catalogue::parse(&models, &text)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && raw.gateway.models.is_none() => {
                Catalogue::default()
            }
            Err(e) => return Err(ConfigError::file(&models, &e)),
        };
        let mut files = vec![path.to_owned(), models];
        if let Some(keys) =
            raw.gateway.keys_file.as_deref().filter(|file| !file.is_empty()).map(|file| base.join(file))
        {
            let text = read(&keys).map_err(|e| ConfigError::file(&keys, &e))?;
            raw.keys.extend(keys::parse_file(&keys, &text)?);
            files.push(keys);
        }
        let settings = settings::of(&raw, &explain::parse(path, &text)?, &vars);
        let outside = Outside { base, env: &env, read: &read };
        let valid = Self::validate(raw, &outside, catalogue, files);
        let config = valid.map_err(|said| ConfigError::says(path, said))?;
        Ok(Self { settings, ..config })
    }

    fn validate(
        raw: raw::File,
        outside: &Outside<'_>,
        catalogue: Catalogue,
        mut files: Vec<PathBuf>,
    ) -> Result<Self, String> {
        let raw::File {
            gateway,
            policies,
            routing,
            eviction,
            telemetry,
            neurons,
            upstreams,
            keys,
            admin_keys,
        } = raw;
        let (base, env) = (outside.base, outside.env);
        let nodes = node::nodes(neurons, upstreams, &catalogue, outside, &mut files)?;
        let tls = gateway.tls.as_ref().map(|tls| tls::load(tls, outside, &mut files)).transpose()?;
        let names: BTreeSet<&str> = nodes.iter().map(|n| n.name.as_str()).collect();
        if let Some((model, node)) = catalogue.pinned_elsewhere(&names) {
            let known: Vec<&str> = names.iter().copied().collect();
            return Err(format!(
                "models: {model} is pinned on {node:?}, and the nodes are {}",
                known.join(", ")
            ));
        }
        let judgement = policies::validate(policies, routing, base)?;
        let time = |section: &str, name: &str, value: f64| {
            Duration::try_from_secs_f64(value)
                .map_err(|_| format!("{section}.{name}: {value} is not a time in seconds"))
        };
        let seconds = |name: &str, value: f64| time("gateway", name, value);
        Ok(Self {
            listen: gateway.listen,
            metrics_listen: gateway.metrics_listen,
            admin_listen: gateway.admin_listen,
            tls,
            body_limit: gateway.body_limit_mb << 20,
            body_timeout: seconds("body_timeout_secs", gateway.body_timeout_secs)?,
            keepalive_after: seconds("keepalive_after_secs", gateway.keepalive_after_secs)?,
            max_wait: seconds("max_wait_secs", gateway.max_wait_secs)?,
            max_waiting: gateway.max_waiting.max(1),
            stall_timeout: seconds("stall_timeout_secs", gateway.stall_timeout_secs)?,
            drain_delay: seconds("drain_delay_secs", gateway.drain_delay_secs)?,
            drain: seconds("drain_secs", gateway.drain_secs)?,
            poll_interval: seconds("poll_interval_secs", gateway.poll_interval_secs)?
                .max(Duration::from_millis(50)),
            node_return: seconds("node_return_secs", gateway.node_return_secs)?,
            allow_anonymous: gateway.allow_anonymous,
            route_header: gateway.route_header,
            keep_prompts: gateway.keep_prompts,
            telemetry: Telemetry::new(telemetry)?,
            keys: Keys::new(keys, &catalogue, env)?,
            admin_keys: AdminKeys::new(admin_keys, env)?,
            usage_store: gateway
                .usage_store
                .filter(|path| !path.as_os_str().is_empty())
                .map(|path| base.join(path)),
            policies: judgement.sources,
            policy_cache: judgement.cache,
            record: judgement.record,
            routing_policy: judgement.routing,
            shadow_policy: judgement.shadow,
            canary: judgement.canary,
            eviction_policy: eviction.strategy,
            defrag_after_cycles: eviction.defrag_after_cycles,
            eviction_patience: time("eviction", "patience_secs", eviction.patience_secs)?,
            nodes,
            catalogue,
            settings: Vec::new(),
            files,
        })
    }

    /// What is allowed and may not be meant, a sentence each.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = self.catalogue.doubts();
        doubts.extend(self.keys.doubts(&self.catalogue, self.usage_store.as_deref()));
        if !self.admin_listen.is_local() && self.admin_keys.is_empty() {
            doubts.push(format!(
                "gateway.admin_listen is {}, and without [[admin_keys]] only programs on this machine are served there",
                self.admin_listen
            ));
        }
        if self.keep_prompts && self.admin_keys.is_empty() && self.admin_listen.port().is_some() {
            let open = "without [[admin_keys]] every user of this machine can read them";
            doubts.push(format!("gateway.keep_prompts keeps what clients ask and are answered, and {open}"));
        }
        doubts
    }

    /// What a reload from `self` to `new` changes, a line each; listen addresses need a restart.
    pub fn changes(&self, new: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        let mut note = |changed: bool, what: &str| {
            if changed {
                changes.push(what.to_owned());
            }
        };
        note(self.catalogue != new.catalogue, "catalogue");
        note(self.files != new.files, "which files are read");
        note(self.nodes != new.nodes, "neurons and upstreams");
        note(self.tls != new.tls, "gateway.tls");
        note(self.admin_keys != new.admin_keys, "admin_keys");
        note(self.keys != new.keys, "keys");
        note(self.usage_store != new.usage_store, "gateway.usage_store (this needs a restart)");
        note(self.allow_anonymous != new.allow_anonymous, "gateway.allow_anonymous");
        note(self.route_header != new.route_header, "gateway.route_header");
        note(self.keep_prompts != new.keep_prompts, "gateway.keep_prompts");
        note(self.telemetry != new.telemetry, "telemetry (this needs a restart)");
        note(self.body_limit != new.body_limit, "gateway.body_limit_mb");
        note(self.body_timeout != new.body_timeout, "gateway.body_timeout_secs");
        note(self.keepalive_after != new.keepalive_after, "gateway.keepalive_after_secs");
        note(self.max_wait != new.max_wait, "gateway.max_wait_secs");
        note(self.node_return != new.node_return, "gateway.node_return_secs");
        note(self.max_waiting != new.max_waiting, "gateway.max_waiting");
        note(self.stall_timeout != new.stall_timeout, "gateway.stall_timeout_secs");
        note(self.drain_delay != new.drain_delay, "gateway.drain_delay_secs");
        note(self.drain != new.drain, "gateway.drain_secs");
        note(self.poll_interval != new.poll_interval, "gateway.poll_interval_secs");
        note(self.policies != new.policies, "policy directories or settings");
        note(self.routing_policy != new.routing_policy, "routing policy");
        note(self.shadow_policy != new.shadow_policy, "shadow policy");
        note(self.canary != new.canary, "canary");
        note(self.record != new.record, "recording of decisions");
        note(self.policy_cache != new.policy_cache, "policy cache (this needs a restart)");
        note(self.eviction_policy != new.eviction_policy, "eviction strategy");
        note(self.defrag_after_cycles != new.defrag_after_cycles, "eviction.defrag_after_cycles");
        note(self.eviction_patience != new.eviction_patience, "eviction.patience_secs");
        let addresses = |c: &Self| [c.listen.clone(), c.metrics_listen.clone(), c.admin_listen.clone()];
        note(addresses(self) != addresses(new), "listen addresses (these need a restart)");
        if changes.is_empty() && self.settings != new.settings {
            changes.push("what is said and what is left to its default".to_owned());
        }
        // A key that is missing above is in force all the same, and is not passed over in silence.
        if changes.is_empty() && self != new {
            changes.push("other settings".to_owned());
        }
        changes
    }
}

/// cortex.toml from bytes, with no files beside it; for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    let read = |file: &Path| match file.file_name().is_some_and(|name| name == "cortex.toml") {
        true => Ok(String::from_utf8_lossy(data).into_owned()),
        false => Err(std::io::ErrorKind::NotFound.into()),
    };
    let loaded =
        Config::load_with(Path::new("cortex.toml"), read, |_| Some("secret".into()), std::iter::empty());
    if let Ok(config) = loaded {
        assert!(config.changes(&config).is_empty());
        let _sentences = config.doubts();
    }
}

/// models.toml from bytes; for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_catalogue(data: &[u8]) {
    if let Ok(catalogue) = Catalogue::parse(Path::new("models.toml"), &String::from_utf8_lossy(data)) {
        for model in catalogue.models() {
            assert_eq!(catalogue.id_of(&model.node_id()), model.id);
        }
        let _sentences = catalogue.doubts();
    }
}

#[cfg(test)]
mod tests;
