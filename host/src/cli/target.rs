//! A running gateway, as operators' commands find it.

use crate::config::{Address, Config};
use crate::upstream::{Access, Peer, Upstream, UpstreamError};
use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
pub(in crate::cli) struct Target {
    /// cortex.toml, for the admin address
    #[arg(long, default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// The admin address itself: http://HOST:PORT, https://HOST:PORT or unix:/PATH
    #[arg(long)]
    url: Option<String>,
    /// The admin key
    #[arg(long, env = "CORTEX_ADMIN_KEY", hide_env_values = true)]
    admin_key: Option<String>,
    /// Certificates (PEM) that are trusted instead of the system's
    #[arg(long)]
    ca: Option<PathBuf>,
}

/// What the gateway refuses with.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(in crate::cli) struct Answered {
    pub(in crate::cli) status: StatusCode,
    message: String,
}

/// Bytes of an answer.
const ANSWER_LIMIT: usize = 64 << 20;

impl Target {
    pub(super) fn new(config: PathBuf, url: Option<String>) -> Self {
        let admin_key = std::env::var("CORTEX_ADMIN_KEY").ok();
        Self { config, url, admin_key, ca: None }
    }

    pub(super) fn peer(&self) -> anyhow::Result<Peer> {
        let endpoint = match &self.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => match Config::admin_address(&self.config)
                .context("the admin address is not known; give it with --url http://HOST:PORT")?
            {
                (Address::Tcp(address), false) => format!("http://{}", reachable(address)),
                (Address::Tcp(address), true) => format!("https://{}", reachable(address)),
                (Address::Unix(path), _) => format!("unix:{}", path.display()),
            },
        };
        let read = |file: &PathBuf| {
            std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
        };
        let ca = self.ca.as_ref().map(read).transpose()?;
        let access = Access { endpoint, token: self.admin_key.clone(), ca, ..Access::default() };
        Ok(Peer::open(&access)?)
    }

    pub(super) fn get(&self, path: &str, limit: Duration) -> anyhow::Result<Value> {
        self.ask(Method::GET, path, Bytes::new(), limit)
    }

    /// The answer's JSON; what the gateway refuses with is the error.
    pub(super) fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> anyhow::Result<Value> {
        let peer = self.peer()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let exchange = async {
            let answer = Upstream.send(&peer, method, path, &HeaderMap::new(), body).await?;
            let status = answer.status();
            let body = answer.into_body().whole(ANSWER_LIMIT).await?;
            Ok::<_, UpstreamError>((status, body))
        };
        let timed = async { tokio::time::timeout(limit, exchange).await };
        let answer = runtime.block_on(timed).unwrap_or(Err(UpstreamError::Timeout(limit)));
        let (status, body) =
            answer.with_context(|| format!("cortex does not answer at {}; is it running?", peer.endpoint))?;
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            return Ok(said);
        }
        let message = match said["error"]["message"].as_str() {
            Some(message) => message.to_owned(),
            None => format!("{} answered {status}: {}", peer.endpoint, String::from_utf8_lossy(&body)),
        };
        Err(Answered { status, message }.into())
    }
}

/// A listener on all addresses is asked on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}
