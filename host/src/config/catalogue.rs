//! models.toml: what may be asked for, and where it may run.

use super::defaults::Defaults;
use super::explain::{self, ConfigError, nearest};
use neuron_protocol::{Cost, Limit};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// The models that the fleet may serve, in the order of their ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalogue {
    models: BTreeMap<String, Model>,
    aliases: BTreeMap<String, String>,
}

/// One model, as the operator describes it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What clients ask for.
    pub id: String,
    #[serde(default = "candle")]
    pub harness: String,
    #[serde(default)]
    pub quant: Option<String>,
    /// MiB that it takes on all its devices together; absent: not known, and only a node can tell.
    #[serde(default)]
    pub vram_mb: Option<u64>,
    /// Devices that it is spread over.
    #[serde(default = "one")]
    pub min_devices: u32,
    /// MiB that each of them must have.
    #[serde(default)]
    pub min_device_vram_mb: Option<u64>,
    /// Names of the nodes where it may run; empty: anywhere.
    #[serde(default)]
    pub pinned_on: Vec<String>,
    /// Never evicted.
    #[serde(default)]
    pub pinned: bool,
    #[serde(default)]
    residency_priority: Option<u32>,
    /// Name of the source that nodes fetch it from; empty: their default.
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    pub limit: Option<Limit>,
    #[serde(default)]
    pub cost: Option<Cost>,
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// How many nodes have it at once; absent: one, on demand.
    #[serde(default)]
    pub replicas: Option<Replicas>,
    /// Seconds without a request after which it is unloaded; absent: it stays until its place is wanted.
    #[serde(default)]
    idle_ttl: Option<u64>,
    /// Seconds for which nothing displaces it once it is there; absent: what its load took, at most 30.
    #[serde(default)]
    min_residency: Option<u64>,
    /// Loaded when the gateway starts and when a node comes back.
    #[serde(default)]
    pub preload: bool,
    /// Stand in for what a request leaves out.
    #[serde(default, skip_serializing_if = "Defaults::is_empty")]
    pub defaults: Defaults,
}

/// How many nodes may have it at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Replicas {
    /// Loaded without being asked for, and never displaced.
    #[serde(default)]
    pub min: u32,
    /// As many when requests keep waiting.
    #[serde(default = "one")]
    pub max: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    models: Vec<Model>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
}

fn candle() -> String {
    "candle".into()
}

fn one() -> u32 {
    1
}

/// What a client's model name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// An id of the catalogue.
    Catalogued(String),
    /// Not in the catalogue; a node may have it all the same.
    Other(String),
}

impl Model {
    /// A model that only a node knows.
    pub fn uncatalogued(id: &str) -> Self {
        Self { id: id.to_owned(), harness: candle(), min_devices: one(), ..Self::default() }
    }

    /// A model may displace its own class and below.
    pub fn class(&self) -> u32 {
        self.residency_priority.unwrap_or(if self.pinned_on.is_empty() { 100 } else { 1000 })
    }

    /// The id as nodes know it: `source:id` where there is a source.
    pub fn node_id(&self) -> String {
        match self.source.as_deref().filter(|s| !s.is_empty()) {
            Some(source) => format!("{source}:{}", self.id),
            None => self.id.clone(),
        }
    }

    pub fn idle_ttl(&self) -> Option<Duration> {
        self.idle_ttl.map(Duration::from_secs)
    }

    pub fn min_residency(&self) -> Option<Duration> {
        self.min_residency.map(Duration::from_secs)
    }

    pub fn allowed_on(&self, node: &str) -> bool {
        self.pinned_on.is_empty() || self.pinned_on.iter().any(|n| n == node)
    }
}

impl Catalogue {
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file: File = explain::parse(path, text)?;
        let mut models = BTreeMap::new();
        for model in file.models {
            if let Err(said) = neuron_protocol::model_id::ModelId::parse(&model.id) {
                return Err(ConfigError::says(
                    path,
                    format!("models: {:?} is not a model id: {said}", model.id),
                ));
            }
            if let Some(Replicas { min, max }) = model.replicas.as_ref().filter(|r| r.max < r.min.max(1)) {
                let said = format!("models: {}: replicas: from {min} to {max} is no range", model.id);
                return Err(ConfigError::says(path, said));
            }
            if let Err(said) = model.defaults.check() {
                return Err(ConfigError::says(path, format!("models: {}: {said}", model.id)));
            }
            if let Some(twice) = models.insert(model.id.clone(), model) {
                return Err(ConfigError::says(path, format!("models: {} is there twice", twice.id)));
            }
        }
        for (alias, target) in &file.aliases {
            if !models.contains_key(target) {
                let like = nearest(target, models.keys().map(String::as_str), 1).pop();
                let said = format!("aliases.{alias}: {target:?} is not in the catalogue");
                return Err(ConfigError { nearest: like, ..ConfigError::says(path, said) });
            }
        }
        Ok(Self { models, aliases: file.aliases })
    }

    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }

    pub fn get(&self, id: &str) -> Option<&Model> {
        self.models.get(id)
    }

    /// The model that a node calls by this name.
    pub fn on_node(&self, name: &str) -> Option<&Model> {
        self.models.values().find(|m| m.id == name || m.node_id() == name)
    }

    /// The id here of what a node calls by this name: its own name where the catalogue has no such model.
    pub fn id_of<'a>(&'a self, name: &'a str) -> &'a str {
        self.on_node(name).map_or(name, |m| m.id.as_str())
    }

    pub fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.aliases.iter().map(|(alias, id)| (alias.as_str(), id.as_str()))
    }

    /// The model that an alias stands for; any other name is its own.
    pub(super) fn id_behind(&self, name: &str) -> String {
        self.aliases.get(name).map_or(name, String::as_str).to_owned()
    }

    /// Alias, then id.
    pub fn resolve(&self, name: &str) -> Resolved {
        let id = self.id_behind(name);
        match self.models.contains_key(&id) {
            true => Resolved::Catalogued(id),
            false => Resolved::Other(id),
        }
    }

    /// What is allowed and may not be meant, a sentence each.
    pub fn doubts(&self) -> Vec<String> {
        let meet = |a: &Model, b: &Model| {
            a.pinned_on.is_empty() || b.pinned_on.is_empty() || a.pinned_on.iter().any(|n| b.allowed_on(n))
        };
        let stays = |m: &&Model| m.idle_ttl.is_none() && !m.pinned;
        let starves = |low: &Model| {
            let above: Vec<&str> = self
                .models
                .values()
                .filter(stays)
                .filter(|high| high.class() > low.class() && meet(high, low))
                .map(|high| high.id.as_str())
                .collect();
            (!above.is_empty()).then(|| {
                format!(
                    "{} is of class {} and never displaces {}; without an idle_ttl these may keep it out",
                    low.id,
                    low.class(),
                    above.join(", ")
                )
            })
        };
        self.models.values().filter_map(starves).collect()
    }

    /// A model that is pinned on a node that does not exist.
    pub(super) fn pinned_elsewhere(&self, nodes: &BTreeSet<&str>) -> Option<(&str, &str)> {
        self.models.values().find_map(|model| {
            let unknown = model.pinned_on.iter().find(|n| !nodes.contains(n.as_str()))?;
            Some((model.id.as_str(), unknown.as_str()))
        })
    }
}
