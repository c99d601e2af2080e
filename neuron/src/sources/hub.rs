//! A server that speaks the Hugging Face hub's API: what it has, and what its refusals mean.

use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use hf_hub::{
    HFClient, HFError, HFRepository,
    repository::{FileMetadataInfo, RepoTreeEntry, RepoTypeModel},
    split_id,
};
use neuron_protocol::{LoadError, model_id::ModelId};

use crate::config::Source;

/// How long the listing of a repository, or what is said of one file, may take: past it the source counts as
/// unreachable.
const LIST_TIMEOUT: Duration = Duration::from_secs(15);
/// Entries of a repository that are looked at.
const MAX_ENTRIES: usize = 10_000;

/// A model's place at a hub.
pub(super) struct Hub<'a> {
    pub(super) id: &'a str,
    pub(super) parts: ModelId<'a>,
    pub(super) source: &'a Source,
    pub(super) repo: HFRepository<RepoTypeModel>,
    pub(super) endpoint: String,
}

impl<'a> Hub<'a> {
    /// `endpoint`: one of the source's; `None`: the hub's own.
    pub(super) fn new(
        id: &'a str,
        parts: ModelId<'a>,
        source: &'a Source,
        endpoint: Option<&str>,
    ) -> Result<Self, LoadError> {
        let client = client(source, endpoint).map_err(|e| failed(id, &e))?;
        let (owner, name) = split_id(parts.repo);
        let (repo, endpoint) = (client.model(owner, name), client.endpoint().to_owned());
        Ok(Self { id, parts, source, repo, endpoint })
    }

    pub(super) fn revision(&self) -> &str {
        self.parts.revision.unwrap_or("main")
    }

    /// Names of the repository's files.
    pub(super) async fn list(&self) -> Result<Vec<String>, LoadError> {
        let list = async {
            let tree = self.repo.list_tree().revision(self.revision()).recursive(true).limit(MAX_ENTRIES);
            let stream = tree.send()?;
            pin_mut!(stream);
            let mut files = Vec::new();
            while let Some(entry) = stream.next().await {
                if let RepoTreeEntry::File { path, .. } = entry? {
                    files.push(path);
                }
            }
            Ok::<_, HFError>(files)
        };
        self.in_time(list).await
    }

    /// What a file is, without its bytes.
    pub(super) async fn head(&self, file: &str, revision: &str) -> Result<FileMetadataInfo, LoadError> {
        let head = self.repo.get_file_metadata().filepath(file).revision(revision).send();
        self.in_time(head).await
    }

    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, HFError>>) -> Result<T, LoadError> {
        let unreachable =
            |cause: String| LoadError::OfflineAndNotCached { model_id: self.id.to_owned(), cause };
        match tokio::time::timeout(LIST_TIMEOUT, asked).await {
            Err(_) => Err(unreachable(format!("no answer from {} in 15 s", self.endpoint))),
            Ok(Err(HFError::Request { source, .. })) if source.is_redirect() => {
                Err(failed(self.id, &format!("{} leads in a circle: {}", self.endpoint, root(&source))))
            }
            Ok(Err(error @ HFError::Request { .. })) => {
                Err(unreachable(format!("{} cannot be reached: {}", self.endpoint, root(&error))))
            }
            Ok(answer) => answer.map_err(|error| self.refusal(&error)),
        }
    }

    /// What a hub's refusal means for a load.
    pub(super) fn refusal(&self, error: &HFError) -> LoadError {
        let (model_id, endpoint) = (self.id.to_owned(), self.endpoint.clone());
        let has_token = self.source.token.is_some();
        let unknown =
            |model_id| LoadError::RevisionNotFound { model_id, revision: self.revision().to_owned() };
        match error {
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => {
                LoadError::Unauthorized { model_id, endpoint, has_token }
            }
            HFError::RepoNotFound { .. } => LoadError::RepoNotFound { model_id, endpoint },
            HFError::RevisionNotFound { .. } => unknown(model_id),
            HFError::RateLimited { retry_after, .. } => LoadError::RateLimited {
                model_id,
                endpoint,
                retry_after_secs: retry_after.map(|after| after.as_secs()),
            },
            // The library tells a listing's refusals less apart than a file's.
            HFError::Http { context } => match (context.status.as_u16(), context.error_code.as_deref()) {
                (401 | 403, _) => LoadError::Unauthorized { model_id, endpoint, has_token },
                (404, Some("RepoNotFound")) => LoadError::RepoNotFound { model_id, endpoint },
                (404, Some("RevisionNotFound")) => unknown(model_id),
                (429, _) => LoadError::RateLimited { model_id, endpoint, retry_after_secs: None },
                _ => failed(self.id, error),
            },
            other => failed(self.id, &root(other)),
        }
    }
}

pub(crate) fn failed(id: &str, cause: &dyn std::fmt::Display) -> LoadError {
    LoadError::RepoFetchFailed { model_id: id.to_owned(), cause: cause.to_string() }
}

fn client(source: &Source, endpoint: Option<&str>) -> Result<HFClient, HFError> {
    // A listing that fails is tried once more at most: whoever waits for the load wants to know. Downloads
    // have retries of their own.
    let mut builder = HFClient::builder().cache_dir(&source.cache_dir).retry_max_attempts(1);
    if let Some(endpoint) = endpoint {
        builder = builder.endpoint(endpoint);
    }
    // Without a token the library would look for the user's own, whatever server it is for. A text that
    // no header can hold is sent as none.
    builder.token(source.token.as_deref().unwrap_or("\n")).build()
}

/// The innermost cause: "connection refused" says more than the layers around it.
pub(super) fn root(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
