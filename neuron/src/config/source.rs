//! A source out of its raw form and the variables of the hub's own tools.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{Env, HUGGINGFACE, Source, raw, secret};
use crate::sources::Pace;

/// Seconds without a byte after which a download has failed, where the source sets none.
pub(super) const STALL_SECS: u64 = 60;
/// Pieces of a model that are fetched at a time, where the source sets no number.
pub(super) const CONNECTIONS: usize = 4;
pub(super) const MAX_CONNECTIONS: usize = 32;

pub(super) fn build(name: &str, raw: &raw::Source, env: Env<'_>) -> Result<Source, String> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        return Err("a source's name is made of letters, digits, - and _".to_owned());
    }
    let mut endpoints: Vec<String> = raw.endpoint.iter().chain(&raw.endpoints).cloned().collect();
    if endpoints.is_empty() && raw.roots.is_empty() {
        endpoints.extend(env("HF_ENDPOINT").filter(|_| name == HUGGINGFACE));
    }
    if let Some(url) = endpoints.iter().find(|u| !u.starts_with("http://") && !u.starts_with("https://")) {
        return Err(format!("endpoint {url:?} is not an http or https address"));
    }
    if !raw.roots.is_empty() && !endpoints.is_empty() {
        return Err("it has roots and an endpoint; a source is either folders or servers".to_owned());
    }
    if let Some(root) = raw.roots.iter().find(|root| !root.is_absolute()) {
        return Err(format!("the root {} is not an absolute path", root.display()));
    }
    let token = match &raw.auth_env {
        None if name == HUGGINGFACE && endpoints.iter().all(|url| is_the_hub(url)) => hub_token(env),
        None => None,
        Some(variable) => Some(secret(variable, env)?),
    };
    let cache_dir = match &raw.cache_dir {
        Some(dir) => dir.clone(),
        None if name == HUGGINGFACE => hub_cache(env),
        // One cache directory a source: the same id may mean different files in two of them.
        None => hub_cache(env).join("sources").join(name),
    };
    let offline = raw.offline.unwrap_or_else(|| env("HF_HUB_OFFLINE").is_some_and(|v| v == "1"));
    let stall = Duration::from_secs(raw.stall_secs.unwrap_or(STALL_SECS).max(1));
    let connections = raw.connections.unwrap_or(CONNECTIONS);
    if !(1..=MAX_CONNECTIONS).contains(&connections) {
        return Err(format!("connections is {connections}, and must be from 1 to {MAX_CONNECTIONS}"));
    }
    let pace = Arc::new(Pace::new(raw.max_mb_per_sec.unwrap_or(0).saturating_mul(1_000_000)));
    let roots = raw.roots.clone();
    Ok(Source { endpoints, roots, token, cache_dir, offline, stall, connections, pace })
}

fn is_the_hub(endpoint: &str) -> bool {
    endpoint.trim_end_matches('/') == "https://huggingface.co"
}

/// The token of the hub's own tools. It is the user's own for the hub, so no other server may see it.
fn hub_token(env: Env<'_>) -> Option<String> {
    if set("HF_HUB_DISABLE_IMPLICIT_TOKEN", env).is_some() {
        return None;
    }
    let read = |path: PathBuf| std::fs::read_to_string(path).ok();
    let found = set("HF_TOKEN", env)
        .or_else(|| read(set("HF_TOKEN_PATH", env)?.into()))
        .or_else(|| read(hub_home(env).join("token")))?;
    Some(found.trim().to_owned()).filter(|token| !token.is_empty())
}

/// Where the hub's own tools keep their files, by the variables that they look at.
fn hub_cache(env: Env<'_>) -> PathBuf {
    let named = set("HF_HUB_CACHE", env).or_else(|| set("HUGGINGFACE_HUB_CACHE", env));
    named.map_or_else(|| hub_home(env).join("hub"), PathBuf::from)
}

fn hub_home(env: Env<'_>) -> PathBuf {
    let home = || PathBuf::from(set("HOME", env).unwrap_or_else(|| ".".to_owned()));
    let cache = || set("XDG_CACHE_HOME", env).map_or_else(|| home().join(".cache"), PathBuf::from);
    set("HF_HOME", env).map_or_else(|| cache().join("huggingface"), PathBuf::from)
}

fn set(name: &str, env: Env<'_>) -> Option<String> {
    env(name).filter(|value| !value.is_empty())
}
