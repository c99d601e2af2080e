//! Daemons to test against.

use std::{net::SocketAddr, path::Path, sync::LazyLock};

use neuron::{config::Config, server::Server};
use serde_json::json;

use super::{Client, MODEL, hub};

/// A daemon of the test's own.
pub(crate) struct Daemon {
    server: Server,
}

impl Daemon {
    /// With `hub` as its only, offline source; `more` is further TOML.
    pub(crate) async fn start(hub: &Path, more: &str) -> Self {
        Self::configured(&format!("[sources.huggingface]\ncache_dir = {hub:?}\noffline = true\n{more}"), &[])
            .await
    }

    pub(crate) async fn configured(toml: &str, env: &[(&str, &str)]) -> Self {
        let env = |name: &str| env.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
        let config = Config::parse(toml, "test.toml", &env).unwrap();
        let free = "127.0.0.1:0".parse().unwrap();
        Self { server: Server::start(config.listening_on(free).unwrap()).await.unwrap() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.address())
    }

    pub(crate) async fn load(&self, model: &str) -> Client {
        let client = self.client();
        let reply = client.post("/models/load", json!({ "model_id": model })).await;
        assert_eq!((reply.status.as_u16(), reply.json()), (200, json!({ "status": "loaded" })));
        client
    }

    pub(crate) async fn stop(self) {
        self.server.stop().await;
    }
}

/// The daemon with the real model that most tests share: it is loaded once a run. It lives on a runtime
/// of its own, because a test's runtime ends with the test.
static SHARED: LazyLock<SocketAddr> = LazyLock::new(|| {
    let start = || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let address = runtime.block_on(async {
            let daemon = Daemon::start(&hub(), "").await;
            daemon.load(MODEL).await;
            let address = daemon.address();
            std::mem::forget(daemon);
            address
        });
        std::mem::forget(runtime);
        address
    };
    // Not on a test's thread: a runtime cannot be entered from within another.
    std::thread::Builder::new().spawn(start).unwrap().join().unwrap()
});

/// A client of the shared daemon.
pub(crate) fn shared() -> Client {
    Client::new(*SHARED)
}
