//! Fetching files into a cache in the hub's layout: in pieces, several at a time, each going on where it was
//! when it broke off, whatever it was that broke it off; and kept only if they are what the hub says they are.

mod coming;
mod digest;
mod partial;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use neuron_protocol::{LoadError, LoadPhase};

use super::{
    cache,
    hub::{Hub, RemoteFile, failed},
};
use crate::progress::Progress;
use coming::{Coming, Trouble};
pub(crate) use digest::{Content, sha256};
#[cfg(any(test, fuzzing))]
pub(crate) use partial::fuzz as fuzz_journal;

/// Files that are asked about at a time.
const HEADS: usize = 8;
/// Bytes of a file's pieces after the first.
const PIECE: u64 = 32 << 20;
/// Of a file's first piece, which is looked at before the rest is fetched: enough for its header, mostly.
const FIRST_OF_GGUF: u64 = 8 << 20;
const FIRST: u64 = 256 << 10;
/// Free bytes that are left beside what is fetched.
const SPARE: u64 = 64 << 20;
/// How often it is looked whether there is more to hash.
const HASH_EVERY: Duration = Duration::from_millis(20);
/// How often another process that fetches the same model is looked after.
const LOCK_EVERY: Duration = Duration::from_millis(200);

/// Files of one model that are being fetched. Another process that wants to fetch some waits until it is dropped.
pub(super) struct Download<'a> {
    hub: &'a Hub<'a>,
    repo: PathBuf,
    commit: String,
    coming: Vec<Arc<Coming>>,
    _lock: fs::File,
}

impl<'a> Download<'a> {
    /// Asks what the files are. What the cache has already of this content is linked and not fetched.
    pub(super) async fn plan(
        hub: &'a Hub<'a>,
        files: &[String],
        revision: &str,
        progress: &Progress,
    ) -> Result<Self, LoadError> {
        if let Some(file) = files.iter().find(|file| !cache::is_inside(file)) {
            return Err(failed(
                hub.id,
                &format!("it has a file named {file:?}, which leads out of the cache"),
            ));
        }
        let Some((first, rest)) = files.split_first() else {
            return Err(LoadError::EmptyRepo { model_id: hub.id.to_owned() });
        };
        // The first answer says which commit that is. The others are of the same, even if the branch moves on.
        let first = hub.head(first, revision).await?;
        let commit = first.commit.clone();
        if !cache::is_name(&commit) {
            return Err(failed(hub.id, &format!("{} names its commit {commit:?}", hub.endpoint)));
        }
        let ask = |file: String| {
            let commit = commit.clone();
            async move { hub.head(&file, &commit).await }
        };
        let rest = stream::iter(rest.to_vec()).map(ask).buffered(HEADS);
        let rest: Vec<_> = rest.try_collect().await?;
        let repo = cache::repo(&hub.source.cache_dir, hub.parts.repo);
        let io = |e: io::Error| on_disk(hub.id, &repo, &e);
        for dir in ["blobs", "refs", "snapshots"] {
            fs::create_dir_all(repo.join(dir)).map_err(io)?;
        }
        let lock = tokio::time::timeout(hub.patience, lock(&repo))
            .await
            .map_err(|_| failed(hub.id, &"it is being fetched now: ask again when it is here"))?;
        let lock = lock.map_err(io)?;
        // Files of one content are fetched once.
        let mut wanted: BTreeMap<PathBuf, (RemoteFile, Vec<PathBuf>)> = BTreeMap::new();
        for file in std::iter::once(first).chain(rest) {
            let link = repo.join("snapshots").join(&commit).join(&file.name);
            let blob = repo.join("blobs").join(cache::blob_name(&file.etag));
            if fs::metadata(&blob).is_ok_and(|blob| blob.is_file() && blob.len() == file.size) {
                cache::link(&link, &blob).map_err(io)?;
                continue;
            }
            wanted.entry(blob).or_insert_with(|| (file, Vec::new())).1.push(link);
        }
        // Before anything is made for it: a size is only what the hub says.
        let there = |blob: &Path| fs::metadata(partial::path(blob)).map_or(0, |meta| meta.blocks() * 512);
        let missing = wanted.iter().map(|(blob, (file, _))| file.size.saturating_sub(there(blob)));
        check_disk(hub, &repo, missing.fold(0, u64::saturating_add))?;
        let (done, mut coming) = (Arc::new(AtomicU64::new(0)), Vec::new());
        for (blob, (file, links)) in wanted {
            let first = if super::choose::is_gguf(&file.name) { FIRST_OF_GGUF } else { FIRST };
            let cut = partial::Cut { size: file.size, first, piece: PIECE };
            coming.push(Arc::new(Coming::open(file, links, blob, cut, &done).map_err(io)?));
        }
        let total = coming.iter().map(|file| file.size()).sum();
        progress.enter_counted(LoadPhase::Downloading, total, Arc::clone(&done));
        Ok(Self { hub, repo, commit, coming, _lock: lock })
    }

    /// The folder that the files will lie in.
    pub(super) fn folder(&self) -> PathBuf {
        self.repo.join("snapshots").join(&self.commit)
    }

    pub(super) fn commit(&self) -> &str {
        &self.commit
    }

    /// Fetches the first `pieces` of each file and shows them all in a folder of links, as they are so far: what is
    /// missing reads as zeros. The folder is gone when what is returned is.
    pub(super) async fn beginnings(&self, pieces: usize) -> Result<Preview, LoadError> {
        self.fetch(|piece| piece < pieces).await?;
        let show = || {
            // By the way that is really there: links lead from here to there.
            let (repo, folder) = (self.repo.canonicalize()?, self.folder());
            let preview = repo.join(format!("preview-{}", std::process::id()));
            fs::remove_dir_all(&preview).or_else(cache::ignore_absent)?;
            fs::create_dir_all(&preview)?;
            let preview = Preview(preview);
            for file in cache::files(&folder) {
                cache::link(&preview.0.join(&file), &folder.join(&file).canonicalize()?)?;
            }
            for file in &self.coming {
                let bytes = file.bytes_at().canonicalize()?;
                let names = file.links().iter().filter_map(|link| link.strip_prefix(&folder).ok());
                names.into_iter().try_for_each(|name| cache::link(&preview.0.join(name), &bytes))?;
            }
            Ok(preview)
        };
        show().map_err(|e| on_disk(self.hub.id, &self.repo, &e))
    }

    /// Fetches what is missing, checks it, and puts it in its place.
    pub(super) async fn finish(self) -> Result<PathBuf, LoadError> {
        self.fetch(|_| true).await?;
        Ok(self.folder())
    }

    /// As [`Self::finish`], for the last files of a model: from now on its revision is what was fetched.
    pub(super) async fn finish_model(self) -> Result<PathBuf, LoadError> {
        let (id, revision, commit) = (self.hub.id, self.hub.revision().to_owned(), self.commit.clone());
        let name = self.repo.join("refs").join(&revision);
        let folder = self.finish().await?;
        if revision != commit && cache::is_inside(&revision) {
            cache::write(&name, &commit).map_err(|e| on_disk(id, &name, &e))?;
        }
        Ok(folder)
    }

    async fn fetch(&self, is_wanted: impl Fn(usize) -> bool) -> Result<(), LoadError> {
        let is_over = AtomicBool::new(false);
        let fetched = async {
            let fetched = self.fetch_pieces(is_wanted).await;
            is_over.store(true, Relaxed);
            fetched
        };
        tokio::join!(fetched, self.hash_until(&is_over)).0?;
        let whole = self.coming.iter().filter(|file| file.missing().is_empty() && !file.is_in_place());
        for file in whole {
            let (file, id) = (Arc::clone(file), self.hub.id.to_owned());
            let checked = tokio::task::spawn_blocking(move || file.put_in_place(&id));
            checked.await.map_err(|e| failed(self.hub.id, &e))??;
        }
        Ok(())
    }

    /// Hashes what has come while the rest comes.
    async fn hash_until(&self, is_over: &AtomicBool) {
        while !is_over.load(Relaxed) {
            let mut any = false;
            for file in self.coming.iter().filter(|file| file.can_be_hashed()) {
                let file = Arc::clone(file);
                // What cannot be read now is an error when the file is put in its place.
                any |= matches!(tokio::task::spawn_blocking(move || file.hash_on()).await, Ok(Ok(true)));
            }
            if !any {
                tokio::time::sleep(HASH_EVERY).await;
            }
        }
    }

    async fn fetch_pieces(&self, is_wanted: impl Fn(usize) -> bool) -> Result<(), LoadError> {
        let at_once = self.hub.source.connections.max(1);
        loop {
            let wanted = self.coming.iter().flat_map(|file| {
                let pieces = file.missing().into_iter().filter(|piece| is_wanted(*piece));
                pieces.map(|piece| (Arc::clone(file), piece))
            });
            let fetched = wanted.map(|(file, piece)| async move {
                tracing::debug!(model = self.hub.id, file = file.name(), piece, "fetching");
                file.fetch(self.hub, &self.commit, piece).await
            });
            let fetched: Vec<_> = fetched.collect();
            let mut fetched = stream::iter(fetched).buffer_unordered(at_once);
            let mut again = false;
            while let Some(piece) = fetched.next().await {
                match piece {
                    Ok(()) => {}
                    // From now on as a whole, once the others are through.
                    Err(Trouble::NoRanges) => again = true,
                    Err(Trouble::Failed(error)) => return Err(*error),
                }
            }
            if !again {
                return Ok(());
            }
        }
    }
}

/// A disk that is full stops others too.
fn check_disk(hub: &Hub<'_>, repo: &Path, missing: u64) -> Result<(), LoadError> {
    let Ok(disk) = rustix::fs::statvfs(repo) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if missing == 0 || missing.saturating_add(SPARE) <= free {
        return Ok(());
    }
    Err(LoadError::InsufficientDisk {
        model_id: hub.id.to_owned(),
        required_mb: missing.saturating_add(SPARE).div_ceil(1 << 20),
        free_mb: free >> 20,
        path: hub.source.cache_dir.display().to_string(),
    })
}

/// A folder that shows a model whose weights have not come.
pub(super) struct Preview(PathBuf);

impl Preview {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Preview {
    fn drop(&mut self) {
        // Links alone.
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Held until it is dropped, or the process ends in whatever way.
async fn lock(repo: &Path) -> io::Result<fs::File> {
    let file =
        fs::OpenOptions::new().create(true).truncate(false).write(true).open(repo.join("fetching.lock"))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(LOCK_EVERY).await,
            Err(fs::TryLockError::Error(e)) => return Err(e),
        }
    }
}

fn on_disk(id: &str, path: &Path, error: &io::Error) -> LoadError {
    failed(id, &format!("{}: {error}", path.display()))
}
