//! Fetching over the Hugging Face hub's API.

use std::{path::PathBuf, time::Duration};

use futures_util::{StreamExt, pin_mut};
use hf_hub::{
    HFClient, HFError,
    progress::{DownloadEvent, FileProgress, ProgressEvent, ProgressHandler},
    repository::RepoTreeEntry,
    split_id,
};
use neuron_protocol::{LoadError, LoadPhase, model_id::ModelId};
use tokio::sync::watch;

use crate::{config::Source, progress::Progress};

/// How long the listing of a repository may take: past it the source counts as unreachable.
const LIST_TIMEOUT: Duration = Duration::from_secs(15);
/// Entries of a repository that are looked at.
const MAX_ENTRIES: usize = 10_000;

/// Names of the repository's files.
pub(super) async fn list(id: &str, parts: &ModelId<'_>, source: &Source) -> Result<Vec<String>, LoadError> {
    let client = client(source).map_err(|e| failed(id, &e))?;
    let (owner, name) = split_id(parts.repo);
    let repo = client.model(owner, name);
    let list = async {
        let revision = parts.revision.unwrap_or("main");
        let stream = repo.list_tree().revision(revision).recursive(true).limit(MAX_ENTRIES).send()?;
        pin_mut!(stream);
        let mut files = Vec::new();
        while let Some(entry) = stream.next().await {
            if let RepoTreeEntry::File { path, .. } = entry? {
                files.push(path);
            }
        }
        Ok::<_, HFError>(files)
    };
    let unreachable = |cause: String| LoadError::OfflineAndNotCached { model_id: id.to_owned(), cause };
    match tokio::time::timeout(LIST_TIMEOUT, list).await {
        Err(_) => Err(unreachable(format!("no answer from {} in 15 s", client.endpoint()))),
        Ok(Err(error)) if is_unreachable(&error) => {
            Err(unreachable(format!("{} cannot be reached: {}", client.endpoint(), root(&error))))
        }
        Ok(Err(error)) => Err(failed(id, &error)),
        Ok(Ok(files)) => Ok(files),
    }
}

/// Downloads `file` into the cache and returns where it lies.
pub(super) async fn fetch(
    id: &str,
    parts: &ModelId<'_>,
    source: &Source,
    file: &str,
    progress: &Progress,
) -> Result<PathBuf, LoadError> {
    progress.enter(LoadPhase::Downloading, 0);
    tracing::info!(model = id, %file, "downloading");
    let client = client(source).map_err(|e| failed(id, &e))?;
    let (owner, name) = split_id(parts.repo);
    let repo = client.model(owner, name);
    let (bytes, mut moved) = watch::channel((0, 0));
    let download = repo.download_file().filename(file).revision(parts.revision.unwrap_or("main"));
    let download = download.progress(Bytes(bytes)).send();
    pin_mut!(download);
    loop {
        let moves = tokio::time::timeout(source.stall, moved.changed());
        tokio::select! {
            // In this order: the end of the download closes the channel.
            biased;
            done = &mut download => return done.map_err(|e| failed(id, &root(&e))),
            moves = moves => if moves.is_ok() {
                let (done, total) = *moved.borrow_and_update();
                progress.moved(done, total);
            } else {
                let seconds = source.stall.as_secs();
                return Err(failed(id, &format!("{} sent nothing of {file} for {seconds} s", client.endpoint())));
            }
        }
    }
}

/// Tells how many bytes have come, of how many. The library also reports at times when none have.
struct Bytes(watch::Sender<(u64, u64)>);

impl ProgressHandler for Bytes {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else { return };
        let (bytes, total) = match event {
            DownloadEvent::Progress { files } => {
                let sum = |of: fn(&FileProgress) -> u64| files.iter().map(of).sum::<u64>();
                (sum(|file| file.bytes_completed), sum(|file| file.total_bytes))
            }
            DownloadEvent::AggregateProgress { bytes_completed, total_bytes, .. } => {
                (*bytes_completed, *total_bytes)
            }
            DownloadEvent::Start { .. } | DownloadEvent::Complete => return,
        };
        self.0.send_if_modified(|known| {
            let before = std::mem::replace(known, (bytes.max(known.0), total.max(known.1)));
            before.0 < bytes
        });
    }
}

pub(super) fn failed(id: &str, cause: &dyn std::fmt::Display) -> LoadError {
    LoadError::RepoFetchFailed { model_id: id.to_owned(), cause: cause.to_string() }
}

fn client(source: &Source) -> Result<HFClient, HFError> {
    // A listing that fails is tried once more at most: whoever waits for the load wants to know.
    let mut builder = HFClient::builder().cache_dir(&source.cache_dir).retry_max_attempts(1);
    if let Some(endpoint) = &source.endpoint {
        builder = builder.endpoint(endpoint);
    }
    // Without a token the library would look for the user's own, whatever server it is for. A text that
    // no header can hold is sent as none.
    builder.token(source.token.as_deref().unwrap_or("\n")).build()
}

/// No server answered, as opposed to one that refused.
fn is_unreachable(error: &HFError) -> bool {
    matches!(error, HFError::Request { .. })
}

/// The innermost cause: "connection refused" says more than the layers around it.
fn root(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
