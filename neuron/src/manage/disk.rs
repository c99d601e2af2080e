//! What lies in the caches.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::{
    config::Config,
    sources::{self, Content},
};

/// A model in a cache.
#[derive(Debug, Serialize)]
struct Cached {
    id: String,
    source: String,
    /// Commits whose files are here.
    revisions: Vec<String>,
    /// Files of weights.
    weights: Vec<String>,
    /// Of all blobs, those on their way included.
    bytes: u64,
    /// Some of it is still on its way, or was broken off.
    is_partial: bool,
}

/// Prints the models in the caches of all sources.
pub fn list(config: &Config, json: bool) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for (source, settings) in &config.sources {
        for dir in folders(&settings.cache_dir) {
            let Some(repo) = name_of(&dir).strip_prefix("models--").map(|name| name.replacen("--", "/", 1))
            else {
                continue;
            };
            let id = if *source == config.default_source { repo } else { format!("{source}:{repo}") };
            all.push(cached(id, source.clone(), &dir));
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    for model in &all {
        let partial = if model.is_partial { "  (not all of it: fetch it on with neuron pull)" } else { "" };
        println!("{:<60} {:>10}  {}{partial}", model.id, in_words(model.bytes), model.weights.join(", "));
    }
    if all.is_empty() {
        println!("there are no models yet; neuron pull fetches one");
    }
    Ok(())
}

fn cached(id: String, source: String, dir: &Path) -> Cached {
    let snapshots = folders(&dir.join("snapshots"));
    let is_weights = |file: &String| [".gguf", ".safetensors"].iter().any(|end| file.ends_with(end));
    let mut weights: Vec<String> =
        snapshots.iter().flat_map(|dir| sources::cached_files(dir)).filter(is_weights).collect();
    weights.sort_unstable();
    weights.dedup();
    let blobs = files(&dir.join("blobs"));
    let coming = |path: &PathBuf| name_of(path).ends_with(".coming");
    Cached {
        id,
        source,
        revisions: snapshots.iter().map(|dir| name_of(dir)).collect(),
        weights,
        bytes: blobs.iter().map(|path| taken(path)).sum(),
        is_partial: blobs.iter().any(coming),
    }
}

/// Removes a model with all its revisions from the cache of its source.
pub fn remove(config: &Config, id: &str, json: bool) -> anyhow::Result<()> {
    let dir = sources::cached_repo(config, id).map_err(|e| anyhow::anyhow!(e.message()))?;
    if !dir.is_dir() {
        bail!("{id} is not in the cache: there is no {}", dir.display());
    }
    let lock = dir.join("fetching.lock");
    let being_fetched = fs::File::open(&lock).is_ok_and(|file| file.try_lock().is_err());
    if being_fetched {
        bail!("{id} is being fetched just now; stop that first");
    }
    let bytes: u64 = files(&dir.join("blobs")).iter().map(|path| taken(path)).sum();
    fs::remove_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
    if json {
        println!("{}", serde_json::json!({"model": id, "freed_bytes": bytes}));
        return Ok(());
    }
    println!("{id} is gone: {} are free again", in_words(bytes));
    Ok(())
}

/// Reads every file of a model, or of all, and holds it against the hash that it is named by. An error where one
/// is something else.
pub fn verify(config: &Config, id: Option<&str>, json: bool) -> anyhow::Result<()> {
    let dirs = match id {
        Some(id) => vec![sources::cached_repo(config, id).map_err(|e| anyhow::anyhow!(e.message()))?],
        None => config.sources.values().flat_map(|source| folders(&source.cache_dir)).collect(),
    };
    let (mut good, mut bad, mut unknown) = (0, Vec::new(), 0);
    for dir in dirs {
        if !dir.is_dir() {
            bail!("{} is not in the cache: there is no {}", id.unwrap_or_default(), dir.display());
        }
        for blob in files(&dir.join("blobs")) {
            let name = name_of(&blob);
            if name.contains(".coming") {
                continue;
            }
            match Content::of(&name) {
                Content::Opaque => unknown += 1,
                content => match content.differs(&blob).with_context(|| format!("{}", blob.display()))? {
                    None => good += 1,
                    Some(found) => {
                        if !json {
                            println!("{} is damaged: its hash is {found}", blob.display());
                        }
                        bad.push(blob);
                    }
                },
            }
        }
    }
    if json {
        println!("{}", serde_json::json!({"good": good, "damaged": bad, "unknown": unknown}));
    } else {
        let damaged = bad.len();
        println!(
            "{good} files are what they should be, {damaged} are not, {unknown} have no hash to be held against"
        );
    }
    if !bad.is_empty() {
        bail!("remove the damaged files, and neuron pull fetches them again");
    }
    Ok(())
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let mut all = entries(dir);
    all.retain(|path| path.is_dir());
    all
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = entries(dir);
    all.retain(|path| path.is_file());
    all
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    all.sort_unstable();
    all
}

/// Bytes on the disk: a file that is on its way has holes.
fn taken(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map_or(0, |meta| meta.len().min(meta.blocks() * 512))
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

pub(super) fn in_words(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three figures are shown")]
    let bytes = bytes as f64;
    match bytes {
        _ if bytes >= 1e9 => format!("{:.1} GB", bytes / 1e9),
        _ if bytes >= 1e6 => format!("{:.1} MB", bytes / 1e6),
        _ => format!("{:.0} kB", bytes / 1e3),
    }
}
