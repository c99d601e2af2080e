//! Which models a folder has.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use neuron_protocol::model_id::ModelId;
use sha2::{Digest, Sha256};

use super::{Root, Shelf};
use crate::{
    safetensors::missing_files,
    sources::{cached_files, cached_snapshot, is_name},
};

/// A model at one revision.
pub(super) struct Found {
    /// `org/name`, as the folder spells it.
    pub(super) repo: String,
    folder: PathBuf,
    /// Forty hexadecimal digits: a commit's, or what stands for one.
    pub(super) commit: String,
    pub(super) files: Vec<Item>,
}

#[derive(Debug, Clone)]
pub(super) struct Item {
    /// Within the model.
    pub(super) name: String,
    /// Where its bytes are.
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) changed: Option<SystemTime>,
}

/// What is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Repo,
    Revision,
}

impl Shelf {
    /// Blocks on the disk.
    pub(super) fn find(&self, org: &str, name: &str, revision: &str) -> Result<Found, Missing> {
        if !is_name(org) || !is_name(name) || org.starts_with('.') || name.starts_with('.') {
            return Err(Missing::Repo);
        }
        let mut missing = Missing::Repo;
        for root in &self.roots {
            match self.find_in(root, org, name, revision) {
                Ok(found) => return Ok(found),
                Err(Missing::Revision) => missing = Missing::Revision,
                Err(Missing::Repo) => {}
            }
        }
        Err(missing)
    }

    fn find_in(&self, root: &Root, org: &str, name: &str, revision: &str) -> Result<Found, Missing> {
        let Root { path: root, is_cache } = root;
        let org_folder = entry(root, org).filter(|org| !is_cache && !is_of_a_cache(org));
        let plain = org_folder.and_then(|org| Some((entry(&root.join(&org), name)?, org)));
        if let Some((name, org)) = plain {
            let folder = root.join(&org).join(&name);
            return self.plain(format!("{org}/{name}"), folder, revision);
        }
        let repo = format!("{org}/{name}");
        let at_all = ModelId { scheme: None, repo: &repo, revision: None };
        let id = ModelId { revision: (revision != "main").then_some(revision), ..at_all };
        let Some(folder) = cached_snapshot(root, &id) else {
            let is_here = root.join(format!("models--{org}--{name}")).is_dir();
            return Err(if is_here { Missing::Revision } else { Missing::Repo });
        };
        let commit = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let files = self.files(&folder);
        // One that is being fetched is nothing for others yet.
        let is_coming = !missing_files(&folder).is_empty();
        if is_coming && !files.iter().any(|file| file.name.ends_with(".gguf")) {
            return Err(Missing::Repo);
        }
        Ok(Found { repo, folder, commit, files })
    }

    /// Files whose hash nobody knows.
    pub(super) fn unhashed(&self) -> Vec<Item> {
        let mut all = Vec::new();
        for repo in self.all() {
            let Some((org, name)) = repo.split_once('/') else { continue };
            let Ok(found) = self.find(org, name, "main") else { continue };
            all.extend(found.files.iter().filter(|item| found.etag_by_name(item).is_none()).cloned());
        }
        all
    }

    fn plain(&self, repo: String, folder: PathBuf, revision: &str) -> Result<Found, Missing> {
        let files = self.files(&folder);
        // Changes with every change of a file.
        let mut hash = Sha256::new();
        for file in &files {
            hash.update(format!("{}\0{}\0{:?}\n", file.name, file.size, file.changed));
        }
        let commit: String = hash.finalize().iter().take(20).map(|byte| format!("{byte:02x}")).collect();
        if revision != "main" && revision != commit {
            return Err(Missing::Revision);
        }
        Ok(Found { repo, folder, commit, files })
    }

    /// Files that lie in the root, links followed; hidden ones are nobody's business.
    fn files(&self, folder: &Path) -> Vec<Item> {
        let names = cached_files(folder).into_iter();
        let names = names.filter(|name| !name.split('/').any(|part| part.starts_with('.')));
        names.filter_map(|name| self.item(folder, name).ok().flatten()).collect()
    }

    fn item(&self, folder: &Path, name: String) -> io::Result<Option<Item>> {
        let path = folder.join(&name).canonicalize()?;
        if !self.roots.iter().any(|root| path.starts_with(&root.path)) {
            return Ok(None);
        }
        let meta = fs::metadata(&path)?;
        Ok(Some(Item { name, path, size: meta.len(), changed: meta.modified().ok() }))
    }

    /// All models, in no order.
    pub(super) fn all(&self) -> Vec<String> {
        let folders = |dir: &Path| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let names = entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name());
            names
                .filter_map(|name| name.into_string().ok())
                .filter(|name| !name.starts_with('.'))
                .collect::<Vec<_>>()
        };
        let mut all = Vec::new();
        for root in &self.roots {
            for org in folders(&root.path) {
                if let Some(repo) = org.strip_prefix("models--") {
                    all.push(repo.replacen("--", "/", 1));
                } else if !root.is_cache && !is_of_a_cache(&org) {
                    let names = folders(&root.path.join(&org)).into_iter();
                    all.extend(names.map(|name| format!("{org}/{name}")));
                }
            }
        }
        all
    }
}

impl Found {
    pub(super) fn file(&self, name: &str) -> Option<&Item> {
        self.files.iter().find(|file| file.name == name)
    }

    /// In a hub's cache a file's name among the blobs is its hash.
    pub(super) fn etag_by_name(&self, item: &Item) -> Option<String> {
        let is_link = fs::symlink_metadata(self.folder.join(&item.name)).is_ok_and(|meta| meta.is_symlink());
        let name = item.path.file_name()?.to_str()?;
        let is_hash = matches!(name.len(), 40 | 64) && name.bytes().all(|b| b.is_ascii_hexdigit());
        (is_link && is_hash).then(|| name.to_owned())
    }
}

/// A cache's own folders are none of an organisation, and what they have besides models is nobody's business.
fn is_of_a_cache(org: &str) -> bool {
    ["models--", "datasets--", "spaces--", "kernels--"].iter().any(|kind| org.starts_with(kind))
}

/// A folder's own spelling of a name: as it is, else whatever its case.
fn entry(dir: &Path, name: &str) -> Option<String> {
    if dir.join(name).is_dir() {
        return Some(name.to_owned());
    }
    let entries = fs::read_dir(dir).ok()?.flatten();
    let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.find(|entry| entry.eq_ignore_ascii_case(name) && dir.join(entry).is_dir())
}
