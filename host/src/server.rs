//! Listening, serving, and ending well.

use crate::gateway::{Gateway, USAGE_EVERY};
use crate::{admin, request, watch};
use anyhow::Context;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// A client that opened a connection has this long to send its request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// After the drain, what the last errors get to reach their clients.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The three listeners, bound.
pub struct Listeners {
    clients: TcpListener,
    metrics: TcpListener,
    admin: TcpListener,
}

impl Listeners {
    /// Errors name the address and the key that sets it.
    pub async fn bind(config: &crate::config::Config) -> anyhow::Result<Self> {
        let bind = async |address: SocketAddr, key: &str| {
            let listener = TcpListener::bind(address).await;
            listener.with_context(|| format!("cannot listen on {address} (gateway.{key})"))
        };
        Ok(Self {
            clients: bind(config.listen, "listen").await?,
            metrics: bind(config.metrics_listen, "metrics_listen").await?,
            admin: bind(config.admin_listen, "admin_listen").await?,
        })
    }

    /// Clients, metrics, admin.
    pub fn addresses(&self) -> std::io::Result<[SocketAddr; 3]> {
        Ok([self.clients.local_addr()?, self.metrics.local_addr()?, self.admin.local_addr()?])
    }

    /// Writes the addresses to the log: with port 0 in the configuration they are news.
    pub fn announce(&self) -> std::io::Result<()> {
        let [clients, metrics, admin] = self.addresses()?;
        tracing::info!("cortex is listening on http://{clients}");
        tracing::info!("metrics on http://{metrics}/metrics");
        tracing::info!("admin on http://{admin}/admin/status");
        Ok(())
    }

    /// Serves until the gateway's shutdown, then drains what runs, for as long as the configuration says.
    /// Streams that run longer end with their dialect's error.
    pub async fn serve(self, gateway: Arc<Gateway>) {
        let tasks = gateway.tasks.clone();
        for (listener, router) in
            [(self.metrics, admin::metrics_router(&gateway)), (self.admin, admin::admin_router(&gateway))]
        {
            let ended = gateway.shutdown.clone();
            tasks.spawn(async move {
                let ended = async move { ended.cancelled().await };
                if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(ended).await {
                    tracing::error!(%error, "a listener ended");
                }
            });
        }
        let connections = accept(self.clients, &gateway).await;
        tasks.close();
        let ended = async {
            connections.shutdown().await;
            tasks.wait().await;
        };
        drain(&gateway, ended).await;
        // What the last ones used.
        tokio::task::block_in_place(|| gateway.sync_usage());
    }
}

/// Until `ended`, or until the drain's time is over and what ran has been ended.
async fn drain(gateway: &Gateway, ended: impl Future<Output = ()>) {
    let mut ended = std::pin::pin!(ended);
    let limit = gateway.config.load().drain;
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        tokio::select! {
            () = &mut ended => return,
            () = tokio::time::sleep_until(deadline) => break,
            // Whoever takes this one's place counts in the same store meanwhile.
            () = tokio::time::sleep(USAGE_EVERY) => tokio::task::block_in_place(|| gateway.sync_usage()),
        }
    }
    let tasks = &gateway.tasks;
    tracing::warn!(left = tasks.len(), "still busy after {limit:?}; ending what runs");
    gateway.cut.cancel();
    if tokio::time::timeout(LAST_WORDS, ended).await.is_err() {
        tracing::warn!(left = tasks.len(), "ending all the same");
    }
}

/// Until the gateway's shutdown; returns the connections that are open.
async fn accept(listener: TcpListener, gateway: &Arc<Gateway>) -> GracefulShutdown {
    let graceful = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => connect(stream, from, gateway, &graceful),
                Err(error) => {
                    // Out of file descriptors, most likely: connections that end give some back.
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = gateway.shutdown.cancelled() => return graceful,
        }
    }
}

fn connect(stream: TcpStream, from: SocketAddr, gateway: &Arc<Gateway>, graceful: &GracefulShutdown) {
    // Events are small and each is flushed at once; without this they would wait for acknowledgements.
    let _only_slower = stream.set_nodelay(true);
    let service = {
        let gateway = gateway.clone();
        service_fn(move |request| {
            let gateway = gateway.clone();
            async move { Ok::<_, Infallible>(request::serve(gateway, from.ip(), request).await) }
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned());
    gateway.tasks.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%from, error, "a connection broke");
        }
    });
}

/// Threads that follow the policy directories and the configuration files.
pub struct Watches {
    _policies: watch::Watch,
    _config: watch::Watch,
}

impl Watches {
    /// Errors when a thread cannot start.
    pub fn start(gateway: &Arc<Gateway>) -> std::io::Result<Self> {
        let (policies, rescan) = (gateway.policies.clone(), gateway.policies.clone());
        let dirs = move || policies.dirs();
        let (config, reload) = (gateway.config.clone(), gateway.clone());
        let files = move || {
            let mut dirs: Vec<PathBuf> = Vec::new();
            for file in &config.load().files {
                let dir =
                    file.parent().filter(|d| !d.as_os_str().is_empty()).map_or(".".into(), PathBuf::from);
                if !dirs.contains(&dir) {
                    dirs.push(dir);
                }
            }
            dirs
        };
        Ok(Self {
            _policies: watch::watch("watch-policies", dirs, move || rescan.rescan())?,
            _config: watch::watch("watch-config", files, move || reload.reload())?,
        })
    }
}
