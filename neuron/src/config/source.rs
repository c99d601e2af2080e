//! A source out of its raw form and the variables of the hub's own tools.

use std::{path::PathBuf, time::Duration};

use super::{Env, HUGGINGFACE, Source, raw, secret};

/// Seconds without a byte after which a download has failed, where the source sets none.
const STALL_SECS: u64 = 60;

pub(super) fn build(name: &str, raw: &raw::Source, env: Env<'_>) -> Result<Source, String> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        return Err("a source's name is made of letters, digits, - and _".to_owned());
    }
    let endpoint = raw.endpoint.clone().or_else(|| env("HF_ENDPOINT").filter(|_| name == HUGGINGFACE));
    if let Some(url) = endpoint.as_deref().filter(|u| !u.starts_with("http://") && !u.starts_with("https://"))
    {
        return Err(format!("endpoint {url:?} is not an http or https address"));
    }
    let token = match &raw.auth_env {
        None if name == HUGGINGFACE && endpoint.as_deref().is_none_or(is_the_hub) => hub_token(env),
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
    Ok(Source { endpoint, token, cache_dir, offline, stall })
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
