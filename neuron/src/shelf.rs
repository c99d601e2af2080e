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
    roots: Vec<PathBuf>,
    /// Of the token that everyone has to send; `None`: nobody has to.
    token: Option<[u8; 32]>,
    hashes: Hashes,
    /// What its paths begin with.
    at: &'static str,
}

/// A shelf that is being served.
pub struct Serving {
    address: SocketAddr,
    task: JoinSet<io::Result<()>>,
}

impl Shelf {
    /// Errors where `root` is no folder.
    pub fn new(root: PathBuf, token: Option<&str>) -> io::Result<Self> {
        let root = root.canonicalize()?;
        if !root.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is not a folder"));
        }
        let token = token.map(|token| Sha256::digest(token).into());
        Ok(Self { roots: vec![root], token, hashes: Hashes::default(), at: "" })
    }

    /// The routes over these folders, those that are not there left out, for a server that has asked for a token already.
    pub(crate) fn routes<'a>(at: &'static str, roots: impl IntoIterator<Item = &'a PathBuf>) -> axum::Router {
        let mut roots: Vec<_> = roots.into_iter().filter_map(|root| root.canonicalize().ok()).collect();
        roots.dedup();
        api::router(Arc::new(Self { roots, token: None, hashes: Hashes::default(), at }))
    }

    /// Serves on `listen` until what is returned is dropped.
    pub async fn serve(self, listen: SocketAddr) -> io::Result<Serving> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let mut task = JoinSet::new();
        task.spawn(axum::serve(listener, api::router(Arc::new(self))).into_future());
        Ok(Serving { address, task })
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
