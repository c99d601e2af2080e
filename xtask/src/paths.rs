//! Where things are. Artifacts stay in the clone's `target`, whatever CARGO_TARGET_DIR says;
//! what is large and the same for every clone goes to a cache of the user's.

use std::env;
use std::path::{Path, PathBuf};

/// The clone.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// `target/NAME` in the clone.
pub(crate) fn artifact(name: &str) -> PathBuf {
    root().join("target").join(name)
}

/// Where cargo puts what it builds.
pub(crate) fn cargo_target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// `CORTEX_CACHE`, else `cortex` in the user's cache directory.
pub(crate) fn cache() -> PathBuf {
    if let Some(dir) = env::var_os("CORTEX_CACHE") {
        return dir.into();
    }
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| ".".into())).join(".cache");
    base.unwrap_or_else(home).join("cortex")
}
