//! Folders of models, given out over the Hugging Face hub's own API: `neuron registry DIR`, and the caches of a
//! daemon with `share_models`.
//!
//! A model is a folder `org/name`, or lies there as in a hub's cache. Reading order: [`models`] finds them and says
//! what their files are; [`hashes`] remembers what is in each; [`api`] answers; [`file`](mod@file) sends bytes.

mod api;
mod file;
mod hashes;
mod models;

use std::{future::IntoFuture, io, net::SocketAddr, path::PathBuf, sync::Arc};

use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, task::JoinSet};

use hashes::Hashes;

/// What is given out, and to whom.
pub struct Shelf {
    roots: Vec<Root>,
    /// Of the token that everyone has to send; `None`: nobody has to.
    token: Option<[u8; 32]>,
    hashes: Hashes,
    /// What its paths begin with.
    at: &'static str,
}

/// A folder with models.
struct Root {
    path: PathBuf,
    /// It is a hub's cache and nothing else: what else lies there is no model.
    is_cache: bool,
}

/// A shelf that is being served.
pub struct Serving {
    address: SocketAddr,
    task: JoinSet<io::Result<()>>,
    _hashing: JoinSet<()>,
}

impl Shelf {
    /// Errors where `root` is no folder.
    pub fn new(root: PathBuf, token: Option<&str>) -> io::Result<Self> {
        let root = root.canonicalize()?;
        if !root.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is not a folder"));
        }
        let token = token.map(|token| Sha256::digest(token).into());
        Ok(Self {
            roots: vec![Root { path: root, is_cache: false }],
            token,
            hashes: Hashes::default(),
            at: "",
        })
    }

    /// The routes over these caches, for a server that has asked for a token already.
    pub(crate) fn routes<'a>(at: &'static str, roots: impl IntoIterator<Item = &'a PathBuf>) -> axum::Router {
        let mut paths: Vec<_> = roots
            .into_iter()
            .filter_map(|root| {
                // A first download would make it later than it is looked for here.
                std::fs::create_dir_all(root).ok();
                root.canonicalize().ok()
            })
            .collect();
        paths.dedup();
        let roots = paths.into_iter().map(|path| Root { path, is_cache: true }).collect();
        api::router(Arc::new(Self { roots, token: None, hashes: Hashes::default(), at }))
    }

    /// Serves on `listen` until what is returned is dropped.
    pub async fn serve(self, listen: SocketAddr) -> io::Result<Serving> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (mut task, shelf) = (JoinSet::new(), Arc::new(self));
        task.spawn(axum::serve(listener, api::router(Arc::clone(&shelf))).into_future());
        let mut hashing = JoinSet::new();
        hashing.spawn(async move { shelf.hash_all().await });
        Ok(Serving { address, task, _hashing: hashing })
    }
}

impl Shelf {
    /// So that whoever asks for a large file need not wait until it has been read once.
    async fn hash_all(self: Arc<Self>) {
        let shelf = Arc::clone(&self);
        let all = tokio::task::spawn_blocking(move || shelf.unhashed()).await.unwrap_or_default();
        for item in all {
            if let Err(error) = self.hashes.of(&item).await {
                tracing::warn!(path = %item.path.display(), %error, "a file cannot be read");
            }
        }
    }
}

impl Serving {
    /// Where it listens; the port is the real one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Until it fails.
    pub async fn ended(&mut self) -> io::Result<()> {
        match self.task.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(e)) => Err(io::Error::other(e)),
            None => Ok(()),
        }
    }
}
