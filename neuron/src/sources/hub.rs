//! A server that speaks the Hugging Face hub's API: what it has, and what its refusals mean.

use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use hf_hub::{
    HFClient, HFError, HFRepository,
    repository::{RepoTreeEntry, RepoTypeModel},
    split_id,
};
use neuron_protocol::{LoadError, model_id::ModelId};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Response, StatusCode, header, redirect};

use crate::config::Source;

/// How long the listing of a repository, or what is said of one file, may take: past it the source counts as
/// unreachable.
const LIST_TIMEOUT: Duration = Duration::from_secs(15);
/// Entries of a repository that are looked at.
const MAX_ENTRIES: usize = 10_000;

/// Redirects within a hub that are followed: a model that was renamed has one.
const MAX_REDIRECTS: usize = 5;
/// What stays as it is in a segment of a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What a hub says a file is.
#[derive(Debug, Clone)]
pub(super) struct RemoteFile {
    /// Within the repository.
    pub(super) name: String,
    /// Its name for the content.
    pub(super) etag: String,
    pub(super) commit: String,
    /// Bytes.
    pub(super) size: u64,
}

/// A model's place at a hub.
pub(super) struct Hub<'a> {
    pub(super) id: &'a str,
    pub(super) parts: ModelId<'a>,
    pub(super) source: &'a Source,
    pub(super) repo: HFRepository<RepoTypeModel>,
    pub(super) endpoint: String,
    /// How long others who fetch the same model are waited for.
    pub(super) patience: Duration,
    /// For what the library asks in a way that loses what a hub says beside a redirect.
    client: reqwest::Client,
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
        let plain = reqwest::Client::builder().redirect(redirect::Policy::none());
        let plain = plain.user_agent(concat!("neuron/", env!("CARGO_PKG_VERSION"))).build();
        let client = plain.map_err(|e| failed(id, &e))?;
        let patience = Duration::MAX;
        Ok(Self { id, parts, source, repo, endpoint, patience, client })
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

    /// What a file is, without its bytes. A hub that keeps it elsewhere says it along with where that is, so such
    /// a redirect is not followed.
    pub(super) async fn head(&self, file: &str, revision: &str) -> Result<RemoteFile, LoadError> {
        let encode = |text: &str| utf8_percent_encode(text, SEGMENT).to_string();
        let path: Vec<String> = file.split('/').map(encode).collect();
        let base = format!("{}/{}", self.endpoint.trim_end_matches('/'), self.parts.repo);
        let mut url = format!("{base}/resolve/{}/{}", encode(revision), path.join("/"));
        let patience = LIST_TIMEOUT.max(self.source.stall);
        for _ in 0..MAX_REDIRECTS {
            let mut asked = self.client.head(&url);
            if let Some(token) = &self.source.token {
                asked = asked.bearer_auth(token);
            }
            let answer = match tokio::time::timeout(patience, asked.send()).await {
                Err(_) => return Err(self.unreachable(format!("no answer in {} s", patience.as_secs()))),
                Ok(Err(error)) => return Err(self.unreachable(root(&error))),
                Ok(Ok(answer)) => answer,
            };
            let here = answer.url().clone();
            let place = answer.headers().get(header::LOCATION).and_then(|place| place.to_str().ok());
            let place =
                place.filter(|_| answer.status().is_redirection()).and_then(|place| here.join(place).ok());
            match place {
                Some(place) if place.origin() == here.origin() => url = place.into(),
                _ => return self.remote_file(file, &answer),
            }
        }
        Err(failed(self.id, &format!("{} redirects {file} in a circle", self.endpoint)))
    }

    fn remote_file(&self, file: &str, answer: &Response) -> Result<RemoteFile, LoadError> {
        let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let status = answer.status();
        if !status.is_success() && !status.is_redirection() {
            let after = text("retry-after").and_then(|after| after.parse().ok());
            return Err(self.refused(status, text("x-error-code"), after).unwrap_or_else(|| {
                failed(self.id, &format!("{} answers {status} for {file}", self.endpoint))
            }));
        }
        let silent =
            |what: &str| failed(self.id, &format!("{} does not say {what} of {file}", self.endpoint));
        let size =
            text("x-linked-size").or_else(|| text("content-length")).and_then(|size| size.parse().ok());
        let etag = text("x-linked-etag").or_else(|| text("etag"));
        let etag = etag.map(|etag| etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"').to_owned());
        Ok(RemoteFile {
            name: file.to_owned(),
            etag: etag.ok_or_else(|| silent("the etag"))?,
            commit: text("x-repo-commit").ok_or_else(|| silent("the commit"))?.to_owned(),
            size: size.ok_or_else(|| silent("the size"))?,
        })
    }

    fn unreachable(&self, cause: String) -> LoadError {
        let cause = format!("{} cannot be reached: {cause}", self.endpoint);
        LoadError::OfflineAndNotCached { model_id: self.id.to_owned(), cause }
    }

    /// A status, and the hub's word beside it; `None`: nothing that has a kind of its own.
    fn refused(&self, status: StatusCode, code: Option<&str>, after: Option<u64>) -> Option<LoadError> {
        let (model_id, endpoint) = (self.id.to_owned(), self.endpoint.clone());
        Some(match (status.as_u16(), code) {
            (401 | 403, _) => {
                LoadError::Unauthorized { model_id, endpoint, has_token: self.source.token.is_some() }
            }
            (404, Some("RepoNotFound")) => LoadError::RepoNotFound { model_id, endpoint },
            (404, Some("RevisionNotFound")) => {
                LoadError::RevisionNotFound { model_id, revision: self.revision().to_owned() }
            }
            (429, _) => LoadError::RateLimited { model_id, endpoint, retry_after_secs: after },
            _ => return None,
        })
    }

    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, HFError>>) -> Result<T, LoadError> {
        match tokio::time::timeout(LIST_TIMEOUT, asked).await {
            Err(_) => Err(self.unreachable("no answer in 15 s".to_owned())),
            Ok(Err(HFError::Request { source, .. })) if source.is_redirect() => {
                Err(failed(self.id, &format!("{} leads in a circle: {}", self.endpoint, root(&source))))
            }
            Ok(Err(error @ HFError::Request { .. })) => Err(self.unreachable(root(&error))),
            Ok(answer) => answer.map_err(|error| self.refusal(&error)),
        }
    }

    /// What a hub's refusal means for a load.
    pub(super) fn refusal(&self, error: &HFError) -> LoadError {
        let of = |status: StatusCode, code: Option<&str>, after: Option<Duration>| {
            self.refused(status, code, after.map(|after| after.as_secs()))
        };
        let refused = match error {
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => of(StatusCode::FORBIDDEN, None, None),
            HFError::RepoNotFound { .. } => of(StatusCode::NOT_FOUND, Some("RepoNotFound"), None),
            HFError::RevisionNotFound { .. } => of(StatusCode::NOT_FOUND, Some("RevisionNotFound"), None),
            HFError::RateLimited { retry_after, .. } => of(StatusCode::TOO_MANY_REQUESTS, None, *retry_after),
            // The library tells a listing's refusals less apart than a file's.
            HFError::Http { context } => {
                let told = of(context.status, context.error_code.as_deref(), None);
                return told.unwrap_or_else(|| failed(self.id, error));
            }
            _ => None,
        };
        refused.unwrap_or_else(|| failed(self.id, &root(error)))
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
