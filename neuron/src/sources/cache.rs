//! The Hugging Face hub's cache layout, read only:
//! `models--org--name/{refs/<revision>, snapshots/<commit>/<file>, blobs/<hash>}`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use neuron_protocol::model_id::ModelId;

/// Directories below a snapshot are followed this deep.
const MAX_DEPTH: usize = 3;

/// The directory of the revision that the id names: by reference, by commit, or the only one there is.
pub(super) fn snapshot(cache: &Path, id: &ModelId<'_>) -> Option<PathBuf> {
    let repo = cache.join(format!("models--{}", id.repo.replace('/', "--")));
    let snapshots = repo.join("snapshots");
    let revision = id.revision.unwrap_or("main");
    let named = fs::read_to_string(repo.join("refs").join(revision)).ok();
    let named = named.as_deref().map(str::trim).filter(|name| is_name(name));
    let candidates = [named, Some(revision).filter(|name| is_name(name))];
    if let Some(dir) = candidates.into_iter().flatten().map(|name| snapshots.join(name)).find(|d| d.is_dir())
    {
        return Some(dir);
    }
    if id.revision.is_some() {
        return None;
    }
    // A cache filled by hand may have no refs; with a single snapshot there is no doubt.
    let mut dirs = fs::read_dir(&snapshots).ok()?.flatten().map(|e| e.path()).filter(|p| p.is_dir());
    let only = dirs.next()?;
    dirs.next().is_none().then_some(only)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\']) && name != "." && name != ".."
}

/// Files of a snapshot, relative to it, sorted. Links whose target is gone are not there.
pub(super) fn files(snapshot: &Path) -> Vec<String> {
    let mut files = Vec::new();
    collect(snapshot, "", MAX_DEPTH, &mut files);
    files.sort();
    files
}

fn collect(dir: &Path, prefix: &str, depth: usize, files: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Follows links: in the hub's layout every file is one.
        let Ok(kind) = fs::metadata(entry.path()) else { continue };
        if kind.is_file() {
            files.push(format!("{prefix}{name}"));
        } else if kind.is_dir() && depth > 0 {
            collect(&entry.path(), &format!("{prefix}{name}/"), depth - 1, files);
        }
    }
}
