//! Nodes: neurons, and servers of others beside them.

use super::{Catalogue, raw};
use crate::upstream::{Access, Peer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A node of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    pub name: String,
    pub access: Access,
    pub serves: Serves,
}

/// What stands behind a node's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serves {
    Neuron,
    /// A server that speaks OpenAI or another dialect, and loads and unloads nothing for us.
    Upstream(Offer),
}

/// What an upstream has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// From what clients ask for to its own name; empty: whatever it lists, under its own names.
    pub models: BTreeMap<String, String>,
    /// Requests that it gets at once; absent: as many as come.
    pub max_concurrent: Option<u32>,
    /// What it speaks; absent: OpenAI.
    pub dialect: Option<String>,
}

impl NodeConfig {
    /// What it speaks, where that is not the native dialect.
    pub fn dialect(&self) -> Option<&str> {
        match &self.serves {
            Serves::Neuron => None,
            Serves::Upstream(offer) => offer.dialect.as_deref(),
        }
    }
}

/// Gets what a value needs from outside the file.
pub(super) struct Outside<'a> {
    pub(super) base: &'a Path,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) read: &'a dyn Fn(&Path) -> std::io::Result<String>,
}

impl Outside<'_> {
    /// `key`: of cortex.toml, where the variable is named.
    fn secret(&self, key: &str, name: Option<String>) -> Result<Option<String>, String> {
        let Some(name) = name else { return Ok(None) };
        let value = (self.env)(&name).filter(|v| !v.is_empty());
        value.map(Some).ok_or(format!("{key}: the environment variable {name} is not set"))
    }

    /// A file, which is added to `files`.
    pub(super) fn text(&self, key: &str, file: &Path, files: &mut Vec<PathBuf>) -> Result<String, String> {
        let file = self.base.join(file);
        let text = (self.read)(&file).map_err(|e| format!("{key}: {} cannot be read: {e}", file.display()));
        files.push(file);
        text
    }
}

/// All nodes, neurons first. Errors name the node and the key.
pub(super) fn nodes(
    neurons: Vec<raw::Neuron>,
    upstreams: Vec<raw::Upstream>,
    catalogue: &Catalogue,
    outside: &Outside<'_>,
    files: &mut Vec<PathBuf>,
) -> Result<Vec<NodeConfig>, String> {
    let mut nodes = Vec::new();
    for raw in neurons {
        let key = |field: &str| format!("neurons.{}.{field}", raw.name);
        let endpoint = raw.endpoint.trim_end_matches('/').to_owned();
        let token = outside.secret(&key("token_env"), raw.token_env.clone())?;
        let ca = raw.ca_file.as_deref().map(|file| outside.text(&key("ca_file"), file, files)).transpose()?;
        let access = Access { endpoint, token, ca, http2: raw.http2, ..Access::default() };
        Peer::open(&access).map_err(|e| format!("{}: {e}", key(e.key())))?;
        nodes.push(NodeConfig { name: raw.name, access, serves: Serves::Neuron });
    }
    for raw in upstreams {
        nodes.push(upstream(raw, catalogue, outside, files)?);
    }
    let mut names = BTreeSet::new();
    match nodes.iter().find(|n| !names.insert(n.name.as_str())) {
        Some(twice) => Err(format!("neurons and upstreams: the name {:?} is given twice", twice.name)),
        None => Ok(nodes),
    }
}

fn upstream(
    raw: raw::Upstream,
    catalogue: &Catalogue,
    outside: &Outside<'_>,
    files: &mut Vec<PathBuf>,
) -> Result<NodeConfig, String> {
    let key = |field: &str| format!("upstreams.{}.{field}", raw.name);
    let token = outside.secret(&key("key_env"), raw.key_env)?;
    let ca = raw.ca_file.as_deref().map(|file| outside.text(&key("ca_file"), file, files)).transpose()?;
    let mut headers: Vec<(String, String)> = raw.headers.into_iter().collect();
    for (name, variable) in raw.headers_env {
        if let Some(value) = outside.secret(&key("headers_env"), Some(variable))? {
            headers.push((name, value));
        }
    }
    let mut endpoint = raw.endpoint.trim_end_matches('/').to_owned();
    // As SDKs take it, base URL and /v1 and all; many leave that out.
    if endpoint.parse().is_ok_and(|uri: http::Uri| uri.path() == "/" && uri.authority().is_some()) {
        endpoint += "/v1";
    }
    if raw.key_header.is_some() && token.is_none() {
        return Err(format!("{}: without key_env there is no key to be sent", key("key_header")));
    }
    if raw.dialect.as_deref() == Some("") {
        return Err(format!("{}: a name is expected, or nothing where it speaks OpenAI", key("dialect")));
    }
    let access = Access { endpoint, token, token_header: raw.key_header, headers, ca, http2: raw.http2 };
    Peer::open(&access).map_err(|e| {
        let field = if e.key() == "token_env" { "key_env" } else { e.key() };
        format!("{}: {e}", key(field))
    })?;
    let mut models = BTreeMap::new();
    for (ours, theirs) in raw.models {
        // An alias stands for the model; requests name that.
        let id = catalogue.id_behind(&ours);
        if theirs.is_empty() || models.insert(id.clone(), theirs).is_some() {
            return Err(format!("{}: {id:?} has to have one name there", key("models")));
        }
    }
    if raw.max_concurrent == Some(0) {
        return Err(format!("{}: 0 would let nothing through; drain it or remove it", key("max_concurrent")));
    }
    let offer = Offer { models, max_concurrent: raw.max_concurrent, dialect: raw.dialect };
    Ok(NodeConfig { name: raw.name, access, serves: Serves::Upstream(offer) })
}
