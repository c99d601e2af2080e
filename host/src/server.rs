//! Listening, serving, and ending well.

mod connection;
mod listener;

use crate::config::{Address, Tls};
use crate::gateway::{Gateway, USAGE_EVERY};
use crate::telemetry::Exporter;
use crate::{admin, request, watch};
use axum::Router;
use connection::Site;
use http::{Request, Response};
use hyper::body::Incoming;
use listener::Listener;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt as _;

/// What nodes get to say what they have before clients are served without them.
const FIRST_LOOK: Duration = Duration::from_secs(3);
/// After the drain, what the last errors get to reach their clients.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The three listeners, bound.
pub struct Listeners {
    clients: Listener,
    metrics: Listener,
    admin: Listener,
}

impl Listeners {
    /// Those that a service manager hands over, else new ones. Errors name the address and the key that sets it.
    pub async fn bind(config: &crate::config::Config) -> anyhow::Result<Self> {
        let [clients, metrics, admin] = Listener::all(config).await?;
        Ok(Self { clients, metrics, admin })
    }

    /// Clients, metrics, admin.
    pub fn addresses(&self) -> std::io::Result<[Address; 3]> {
        Ok([self.clients.address()?, self.metrics.address()?, self.admin.address()?])
    }

    /// Writes the addresses to the log: with port 0 in the configuration they are news.
    pub fn announce(&self, tls: Option<&Tls>) -> std::io::Result<()> {
        let url = |address: Address, secure: bool| match address {
            Address::Tcp(address) if secure => format!("https://{address}"),
            Address::Tcp(address) => format!("http://{address}"),
            Address::Unix(_) => address.to_string(),
        };
        let [clients, metrics, admin] = self.addresses()?;
        tracing::info!("cortex is listening on {}", url(clients, tls.is_some()));
        tracing::info!("metrics on {}/metrics", url(metrics, tls.is_some_and(|tls| tls.metrics)));
        tracing::info!("admin on {}/admin/status", url(admin, tls.is_some_and(|tls| tls.admin)));
        Ok(())
    }

    /// Serves until the gateway's shutdown, then drains what runs, for as long as the configuration says.
    /// Streams that run longer end with their dialect's error.
    pub async fn serve(self, gateway: Arc<Gateway>) {
        let tasks = gateway.tasks.clone();
        let sides = [
            (self.metrics, admin::metrics_router(&gateway), (|tls| tls.metrics) as fn(&Tls) -> bool),
            (self.admin, admin::admin_router(&gateway), |tls| tls.admin),
        ];
        for (listener, router, is_secure) in sides {
            let gateway = gateway.clone();
            tasks.spawn(async move {
                accept(&listener, &gateway, is_secure, Pages(router)).await;
            });
        }
        first_look(&gateway).await;
        accept(&self.clients, &gateway, |_| true, Clients(gateway.clone())).await;
        // Whoever comes now is refused at once, where nobody else holds the socket.
        drop(self.clients);
        tasks.close();
        drain(&gateway, tasks.wait()).await;
        // What the last ones used.
        tokio::task::block_in_place(|| {
            gateway.sync_usage();
            gateway.telemetry.iter().for_each(Exporter::end);
        });
    }
}

/// Until every node was asked once: what a gateway does not know of yet, it would deny to clients. They wait in the
/// listener's queue meanwhile.
async fn first_look(gateway: &Gateway) {
    let mut changes = gateway.fleet.changes();
    let seen = async {
        while gateway.fleet.now().nodes.iter().any(|view| view.is_unseen()) {
            // Never an error: the sender is the fleet.
            let _changed = changes.changed().await;
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(FIRST_LOOK, seen) => {}
        () = gateway.shutdown.cancelled() => {}
    }
}

/// What clients ask for.
#[derive(Clone)]
struct Clients(Arc<Gateway>);

impl Site for Clients {
    type Body = request::Body;

    async fn answer(self, from: IpAddr, request: Request<Incoming>) -> Response<Self::Body> {
        request::serve(self.0, request::Sender::At(from), request).await
    }
}

/// What operators and their programs ask for.
#[derive(Clone)]
struct Pages(Router);

impl Site for Pages {
    type Body = axum::body::Body;

    async fn answer(self, from: IpAddr, mut request: Request<Incoming>) -> Response<Self::Body> {
        request.extensions_mut().insert(admin::From(from));
        self.0.oneshot(request).await.unwrap_or_else(|never| match never {})
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

/// Until the gateway's shutdown. `is_secure`: whether the certificate, where
/// there is one, is for this listener.
async fn accept(listener: &Listener, gateway: &Arc<Gateway>, is_secure: fn(&Tls) -> bool, site: impl Site) {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => {
                    let config = gateway.config.load();
                    let tls = config.tls.as_ref().filter(|tls| is_secure(tls)).map(|tls| tls.server.clone());
                    connection::serve(gateway, accepted, tls, site.clone());
                }
                Err(error) => {
                    // Out of file descriptors, most likely: connections that end give some back.
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = gateway.shutdown.cancelled() => return,
        }
    }
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
