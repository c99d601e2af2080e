//! `[policies]` and `[routing]`.

use super::raw;
use crate::policy::{Sources, limits};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A policy that decides for a share of the requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    pub policy: String,
    /// 1 to 99.
    pub percent: u8,
}

pub(super) struct Judgement {
    pub(super) sources: Sources,
    pub(super) cache: Option<PathBuf>,
    pub(super) record: Option<PathBuf>,
    pub(super) routing: String,
    pub(super) shadow: Option<String>,
    pub(super) canary: Option<Canary>,
}

/// Relative paths are relative to `base`. An error is a sentence.
pub(super) fn validate(
    policies: raw::Policies,
    routing: raw::Routing,
    base: &Path,
) -> Result<Judgement, String> {
    let settings = policies
        .settings
        .into_iter()
        .map(|(name, table)| {
            let json = serde_json::to_string(&table).map_err(|e| format!("policies.settings.{name}: {e}"))?;
            Ok((name, json))
        })
        .collect::<Result<BTreeMap<_, _>, String>>()?;
    let most = limits::COMPONENT_AT_MOST >> 20;
    let component_limit = match policies.component_limit_mb {
        None => limits::COMPONENT,
        Some(mb) if (1..=most).contains(&mb) => mb << 20,
        Some(mb) => return Err(format!("policies.component_limit_mb: {mb} is not between 1 and {most}")),
    };
    let live = &routing.policy;
    // The live policy beside itself would always agree, and share its store.
    if routing.shadow.as_ref() == Some(live) {
        return Err(format!("routing.shadow: {live:?} is the live policy; name another one"));
    }
    let canary = match routing.canary {
        None => None,
        Some(c) if c.policy == *live => {
            return Err(format!("routing.canary.policy: {live:?} is the live policy; name another one"));
        }
        Some(c) if !(1..=99).contains(&c.percent) => {
            return Err(format!("routing.canary.percent: {} is not between 1 and 99", c.percent));
        }
        Some(c) => Some(Canary { policy: c.policy, percent: c.percent }),
    };
    Ok(Judgement {
        sources: Sources {
            dirs: policies.dirs.into_iter().map(|dir| base.join(dir)).collect(),
            settings,
            component_limit,
        },
        cache: match policies.cache_dir {
            None => default_cache(|name| std::env::var_os(name).map(PathBuf::from)),
            Some(dir) if dir.as_os_str().is_empty() => None,
            Some(dir) => Some(base.join(dir)),
        },
        record: policies.record.map(|path| base.join(path)),
        routing: routing.policy,
        shadow: routing.shadow,
        canary,
    })
}

/// What the service manager made for this, else the user's own cache directory.
fn default_cache(env: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name: &str| env(name).filter(|path| path.is_absolute());
    let user = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    absolute("CACHE_DIRECTORY").or_else(|| user.map(|dir| dir.join("cortex"))).map(|dir| dir.join("compiled"))
}
