//! Who may come in, and how much each may have.

use super::{Catalogue, ConfigError, Resolved, explain, raw};
use crate::fleet::Priority;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The longest window of a cap: as long as usage is kept by the hour.
pub const LONGEST_WINDOW: Duration = Duration::from_secs(31 * 24 * 3600);
const SHORTEST_WINDOW: Duration = Duration::from_secs(60);

/// SHA-256 of a key: comparing digests tells nothing of the key by its timing.
pub(super) type Digest = [u8; 32];

/// Callers' keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Keys {
    by_digest: BTreeMap<Digest, Arc<Key>>,
    names: BTreeMap<String, Arc<Key>>,
}

/// A caller, with what it may have.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Key {
    pub name: String,
    pub priority: Priority,
    /// Ids of the catalogue, or patterns with `*`; empty: all.
    pub models: Vec<String>,
    pub limits: Limits,
}

/// What a key may have; what is `None` has no limit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    pub requests_per_minute: Option<u32>,
    pub tokens_per_minute: Option<u64>,
    /// Requests that run or wait at once.
    pub max_concurrent: Option<u32>,
    pub caps: Vec<Cap>,
    /// For good: used up, it is used up.
    pub balance: Quantity,
}

/// What may be had within any time of a length.
#[derive(Debug, Clone, PartialEq)]
pub struct Cap {
    pub window: Duration,
    pub most: Quantity,
}

/// An amount of one or more things; what is `None` is not bounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quantity {
    pub requests: Option<u64>,
    /// Of prompts and answers.
    pub tokens: Option<u64>,
    /// Billionths of a US dollar.
    pub nano_usd: Option<u64>,
}

impl Keys {
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Each once, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.names.values()
    }

    /// The one whose secret `key` is.
    pub fn of(&self, key: &[u8]) -> Option<&Arc<Key>> {
        self.by_digest.get(&digest(key))
    }

    pub fn named(&self, name: &str) -> Option<&Arc<Key>> {
        self.names.get(name)
    }

    /// An error is a sentence. `env`: the environment.
    pub(super) fn new(
        raw: Vec<raw::Key>,
        catalogue: &Catalogue,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let mut keys = Self::default();
        for raw in raw {
            let digests =
                digests(&format!("keys.{}", raw.name), raw.key_env.as_deref(), raw.sha256.as_ref(), &env)?;
            let key = Arc::new(key(raw, catalogue)?);
            if keys.names.insert(key.name.clone(), key.clone()).is_some() {
                let hint = "for a second secret of the same caller, give sha256 a list";
                return Err(format!("keys: the name {:?} is given twice; {hint}", key.name));
            }
            for digest in digests {
                if let Some(other) = keys.by_digest.insert(digest, key.clone()) {
                    return Err(format!("keys: {} and {} are the same secret", other.name, key.name));
                }
            }
        }
        Ok(keys)
    }

    /// What is allowed and may not be meant.
    pub(super) fn doubts(&self, catalogue: &Catalogue, store: Option<&Path>) -> Vec<String> {
        let mut doubts = Vec::new();
        for key in self.names.values() {
            for model in key.models.iter().filter(|m| !m.contains('*') && catalogue.get(m).is_none()) {
                doubts.push(format!("keys.{}.models: {model} is not in the catalogue", key.name));
            }
            let Limits { caps, balance, .. } = &key.limits;
            if store.is_none() && (!caps.is_empty() || *balance != Quantity::default()) {
                let what =
                    "has caps or a balance, and without gateway.usage_store they begin anew at a restart";
                doubts.push(format!("keys.{} {what}", key.name));
            }
            let in_usd = balance.nano_usd.is_some() || caps.iter().any(|cap| cap.most.nano_usd.is_some());
            let priced = |model: &super::Model| model.cost.is_some() || !key.allows(&model.id);
            if let Some(free) = catalogue.models().find(|model| in_usd && !priced(model)) {
                doubts.push(format!("keys.{}: a bound in USD, and {} has no cost", key.name, free.id));
            }
        }
        doubts
    }
}

impl Keys {
    /// Of the key of that name, as digests.
    pub(super) fn secrets(&self, name: &str) -> Vec<&Digest> {
        self.by_digest.iter().filter(|(_, key)| key.name == name).map(|(digest, _)| digest).collect()
    }
}

impl Key {
    /// `model`: an id of the catalogue, or a node's own.
    pub fn allows(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|pattern| fits(pattern, model))
    }
}

/// `gateway.keys_file`: nothing but `[[keys]]`.
pub(super) fn parse_file(path: &Path, text: &str) -> Result<Vec<raw::Key>, ConfigError> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        keys: Vec<raw::Key>,
    }
    explain::parse::<File>(path, text).map(|file| file.keys)
}

/// What is compared with the digests of the configuration.
pub fn digest(key: &[u8]) -> Digest {
    use sha2::Digest as _;
    sha2::Sha256::digest(key).into()
}

fn key(raw: raw::Key, catalogue: &Catalogue) -> Result<Key, String> {
    let name = raw.name;
    if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
        return Err(format!("keys: {name:?} is no name; 1 to 64 characters are"));
    }
    // An alias stands for what it stands for now; an id may be one that only a node has.
    let model = |model: String| match catalogue.resolve(&model) {
        Resolved::Catalogued(id) | Resolved::Other(id) => id,
    };
    let caps = raw.caps.into_iter().map(|cap| {
        let window = window(&cap.window).map_err(|e| format!("keys.{name}.caps: {e}"))?;
        let most =
            quantity(cap.requests, cap.tokens, cap.usd).map_err(|e| format!("keys.{name}.caps: {e}"))?;
        match most == Quantity::default() {
            true => Err(format!("keys.{name}.caps: one of requests, tokens and usd is needed")),
            false => Ok(Cap { window, most }),
        }
    });
    let caps = caps.collect::<Result<Vec<_>, _>>()?;
    let balance = raw.balance.unwrap_or_default();
    let balance = quantity(balance.requests, balance.tokens, balance.usd)
        .map_err(|e| format!("keys.{name}.balance: {e}"))?;
    for (field, is_zero) in [
        ("requests_per_minute", raw.requests_per_minute == Some(0)),
        ("tokens_per_minute", raw.tokens_per_minute == Some(0)),
        ("max_concurrent", raw.max_concurrent == Some(0)),
    ] {
        if is_zero {
            return Err(format!("keys.{name}.{field}: 0 lets nobody in; to do that, remove the key"));
        }
    }
    Ok(Key {
        priority: raw.priority,
        models: raw.models.into_iter().map(model).collect::<BTreeSet<_>>().into_iter().collect(),
        limits: Limits {
            requests_per_minute: raw.requests_per_minute,
            tokens_per_minute: raw.tokens_per_minute,
            max_concurrent: raw.max_concurrent,
            caps,
            balance,
        },
        name,
    })
}

fn quantity(requests: Option<u64>, tokens: Option<u64>, usd: Option<f64>) -> Result<Quantity, String> {
    let nano = |usd: f64| {
        let sane = usd.is_finite() && (0.0..=1e9).contains(&usd);
        sane.then(|| (usd * 1e9).round() as u64).ok_or(format!("usd: {usd} is not an amount"))
    };
    Ok(Quantity { requests, tokens, nano_usd: usd.map(nano).transpose()? })
}

/// `90m`, `5h`, `30d`.
fn window(text: &str) -> Result<Duration, String> {
    let split = text.len() - text.chars().last().map_or(0, char::len_utf8);
    let seconds = match &text[split..] {
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => 0,
    };
    let time =
        text[..split].parse::<u64>().ok().and_then(|n| n.checked_mul(seconds)).map(Duration::from_secs);
    time.filter(|time| (SHORTEST_WINDOW..=LONGEST_WINDOW).contains(time))
        .ok_or(format!("window: expected 1m to 31d, as in \"90m\", \"5h\" or \"30d\", got {text:?}"))
}

/// The secrets' digests, from the environment or as they stand there. `place`: in cortex.toml.
pub(super) fn digests(
    place: &str,
    key_env: Option<&str>,
    sha256: Option<&raw::OneOrMany>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Digest>, String> {
    match (key_env, sha256) {
        (Some(variable), None) => {
            let value = env(variable).filter(|v| !v.is_empty());
            let unset = || format!("{place}.key_env: the environment variable {variable} is not set");
            Ok(vec![digest(value.ok_or_else(unset)?.as_bytes())])
        }
        (None, Some(hex)) => {
            let bad = || format!("{place}.sha256: expected 64 hexadecimal digits");
            let digests: Vec<Digest> =
                hex.all().iter().map(|hex| parse_sha256(hex).ok_or_else(bad)).collect::<Result<_, _>>()?;
            if digests.is_empty() { Err(bad()) } else { Ok(digests) }
        }
        _ => Err(format!("{place}: exactly one of key_env and sha256 is needed")),
    }
}

fn parse_sha256(hex: &str) -> Option<Digest> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

/// `*` stands for any text, also none.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let check = |pattern, text, want| assert_eq!(fits(pattern, text), want, "{pattern} {text}");
        check("org/a", "org/a", true);
        check("org/a", "org/ab", false);
        check("org/*", "org/ab", true);
        check("*", "", true);
        check("*-8b", "org/llama-8b", true);
        check("*-8b", "org/llama-8b-it", false);
        check("o*l*b", "org/llama-8b", true);
        check("a*a", "a", false);
    }

    #[test]
    fn windows() {
        let check = |text, want: Option<u64>| {
            assert_eq!(window(text).ok(), want.map(Duration::from_secs), "{text:?}");
        };
        check("90m", Some(5400));
        check("5h", Some(18_000));
        check("31d", Some(31 * 86_400));
        for bad in ["", "d", "0m", "32d", "5", "5 h", "-1h", "1ü", "99999999999999999d"] {
            check(bad, None);
        }
    }
}
