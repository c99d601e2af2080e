//! SHA-256 of files, worked out once for each and again where a file has changed.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;

use super::models::Item;
use crate::sources::sha256;

/// A file as it is now.
type Key = (PathBuf, u64, Option<SystemTime>);

#[derive(Default)]
pub(super) struct Hashes {
    known: Mutex<HashMap<Key, Arc<OnceCell<String>>>>,
    /// Files that are being read.
    reading: TaskTracker,
}

impl Hashes {
    /// In hexadecimal. Reads the file where that has not been done; whoever asks meanwhile waits for it.
    pub(super) async fn of(&self, item: &Item) -> io::Result<String> {
        let key = (item.path.clone(), item.size, item.changed);
        let cell =
            Arc::clone(self.known.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default());
        let path = item.path.clone();
        // Goes on when whoever asked has left: the next one has it then.
        let known = self.reading.spawn(async move {
            let read = async || {
                tokio::task::spawn_blocking(move || sha256(&path)).await.map_err(io::Error::other)?
            };
            cell.get_or_try_init(read).await.cloned()
        });
        known.await.map_err(io::Error::other)?
    }
}
