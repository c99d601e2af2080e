//! The Hugging Face hub's cache layout:
//! `models--org--name/{refs/<revision>, snapshots/<commit>/<file>, blobs/<hash>}`, each file of a snapshot a link
//! to its blob.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use neuron_protocol::model_id::ModelId;
use sha2::{Digest, Sha256};

/// Directories below a snapshot are followed this deep.
const MAX_DEPTH: usize = 3;

/// The directory of the revision that the id names: by reference, by commit, or the only one there is.
pub(crate) fn snapshot(cache: &Path, id: &ModelId<'_>) -> Option<PathBuf> {
    let repo = repo(cache, id.repo);
    let snapshots = repo.join("snapshots");
    let revision = id.revision.unwrap_or("main");
    // A revision may be anything that a client writes.
    let named = is_inside(revision).then(|| small_file(&repo.join("refs").join(revision))).flatten();
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

/// Where all of a model is.
pub(super) fn repo(cache: &Path, repo: &str) -> PathBuf {
    cache.join(format!("models--{}", repo.replace('/', "--")))
}

/// What a file's content is called, by the hub's name for it. It is foreign, and may be none for a file.
pub(super) fn blob_name(etag: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if is_name(etag) && etag.len() <= 128 && !etag.starts_with('.') && etag.bytes().all(is_plain) {
        return etag.to_owned();
    }
    // Nobody may take it for the content's hash.
    let hash = Sha256::digest(etag);
    hash.iter().fold("etag-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// A text of a commit's length, of a file and of nothing else.
fn small_file(path: &Path) -> Option<String> {
    const MOST: u64 = 256;
    let meta = fs::metadata(path).ok()?;
    (meta.is_file() && meta.len() <= MOST).then(|| fs::read_to_string(path).ok()).flatten()
}

/// The path of a file stays inside the folder that it is put in.
pub(super) fn is_inside(path: &str) -> bool {
    path.len() <= 1024
        && !path.contains('\\')
        && !path.chars().any(char::is_control)
        && path.split('/').all(is_name)
}

/// Makes `link` lead to `blob`, by the way from the one to the other where they have a folder in common, so that
/// the cache can be moved.
pub(super) fn link(link: &Path, blob: &Path) -> io::Result<()> {
    let folder = link.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let common = folder.components().zip(blob.components()).take_while(|(a, b)| a == b).count();
    let up = folder.components().skip(common).map(|_| "..");
    let way: PathBuf =
        up.map(PathBuf::from).chain(blob.components().skip(common).map(|c| c.as_os_str().into())).collect();
    // In one step, for whoever reads it now.
    let new = folder.join(format!(".new-{}", std::process::id()));
    fs::remove_file(&new).or_else(ignore_absent)?;
    std::os::unix::fs::symlink(way, &new)?;
    fs::rename(&new, link)
}

/// Replaces a small file in one step.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let new = folder.join(format!(".new-{}", std::process::id()));
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

pub(super) fn ignore_absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\']) && name != "." && name != ".."
}

/// Files of a snapshot, relative to it, sorted. Links whose target is gone are not there.
pub(crate) fn files(snapshot: &Path) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_stay_where_they_belong() {
        for name in ["config.json", "1_Pooling/config.json", "a/b/c.gguf"] {
            assert!(is_inside(name), "{name}");
        }
        for name in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a\\b", "a\nb", ".."] {
            assert!(!is_inside(name), "{name:?}");
        }
        assert_eq!(blob_name("0123abc"), "0123abc");
        for etag in ["../../x", "", ".hidden", "a b", "W/\"x\""] {
            assert!(is_name(&blob_name(etag)) && blob_name(etag).len() == 69, "{etag:?}");
        }
    }

    #[test]
    fn links_lead_to_their_blobs_wherever_the_cache_is() {
        let dir = tempfile::tempdir().unwrap();
        let (before, after) = (dir.path().join("before"), dir.path().join("after"));
        let file = "snapshots/abc/1_Pooling/config.json";
        for text in ["one", "two"] {
            write(&before.join("blobs").join(text), text).unwrap();
            link(&before.join(file), &before.join("blobs").join(text)).unwrap();
        }
        fs::rename(&before, &after).unwrap();
        assert_eq!(fs::read_to_string(after.join(file)).unwrap(), "two");
    }
}
