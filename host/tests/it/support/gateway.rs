//! A gateway in this process, on ports of its own, with a configuration folder that the test may change.

use super::http::Client;
use super::node::{TestNode, spawn};
use cortex::config::Config;
use cortex::gateway::Gateway;
use cortex::server::{Listeners, Watches};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub struct TestGateway {
    pub gateway: Arc<Gateway>,
    pub client: Client,
    pub admin: Client,
    pub metrics: Client,
    pub dir: TempDir,
    /// Ends when the gateway has ended.
    pub serving: JoinHandle<()>,
    _watches: Watches,
}

impl TestGateway {
    /// With those nodes, the built policies `names`, more lines for `[gateway]`, and a catalogue.
    pub async fn start(nodes: &[&TestNode], names: &[&str], gateway: &str, models: &str) -> Self {
        Self::start_with(nodes, names, gateway, models, "").await
    }

    /// `more` goes to the end of cortex.toml.
    pub async fn start_with(
        nodes: &[&TestNode],
        names: &[&str],
        gateway: &str,
        models: &str,
        more: &str,
    ) -> Self {
        let running = Self::start_in(tempfile::tempdir().unwrap(), nodes, names, gateway, models, more).await;
        running
            .until("all nodes are up", |s| s["nodes"].as_array().unwrap().iter().all(|n| n["state"] == "up"))
            .await;
        running
    }

    /// With nodes that need not come up.
    pub async fn start_unready(more: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), &[], &[], "", "", more).await
    }

    /// Whose admin address wants a key; tests have this one, where a call says nothing else.
    pub async fn start_locked(nodes: &[&TestNode], gateway: &str, more: &str, key: &str) -> Self {
        let mut running = Self::start_in(tempfile::tempdir().unwrap(), nodes, &[], gateway, "", more).await;
        running.admin.bearer = Some(key.to_owned());
        running
    }

    /// As [`Self::start_with`], and nobody need be up.
    pub async fn start_many(nodes: &[&TestNode], gateway: &str, models: &str, more: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), nodes, &[], gateway, models, more).await
    }

    async fn start_in(
        dir: TempDir,
        nodes: &[&TestNode],
        names: &[&str],
        gateway: &str,
        models: &str,
        more: &str,
    ) -> Self {
        let policies = dir.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        for name in names {
            std::fs::copy(built_policy(name), policies.join(format!("{name}.wasm"))).unwrap();
        }
        std::fs::write(dir.path().join("models.toml"), models).unwrap();
        std::fs::write(dir.path().join("cortex.toml"), config(nodes, gateway, more)).unwrap();
        let path = dir.path().join("cortex.toml");
        let config = Config::load(&path).unwrap();
        let listeners = Listeners::bind(&config).await.unwrap();
        let [clients, metrics, admin] =
            listeners.addresses().unwrap().map(|a| Client::new(&format!("http://{a}")));
        let gateway = tokio::task::block_in_place(|| Gateway::new(config, path)).unwrap();
        let watches = Watches::start(&gateway).unwrap();
        let serving = spawn(listeners.serve(gateway.clone()));
        Self { gateway, client: clients, admin, metrics, dir, serving, _watches: watches }
    }

    pub fn policies(&self) -> PathBuf {
        self.dir.path().join("policies")
    }

    pub async fn status(&self) -> Value {
        self.admin.get("/admin/status").await.json()
    }

    /// Waits for a state of the gateway, which it returns; fails the test after a minute.
    pub async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut status = Value::Null;
        super::until(what, async || {
            status = self.status().await;
            holds(&status)
        })
        .await;
        status
    }

    /// The account of the last settled request.
    pub async fn last_request(&self) -> Value {
        let requests = self.admin.get("/admin/requests").await.json();
        requests.as_array().unwrap().last().cloned().unwrap_or_default()
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        self.gateway.shutdown.cancel();
    }
}

/// Whether another could listen where the configuration in `dir` says.
pub async fn try_start(dir: &Path) -> anyhow::Result<()> {
    Listeners::bind(&Config::load(&dir.join("cortex.toml"))?).await.map(drop)
}

pub fn config(nodes: &[&TestNode], gateway: &str, more: &str) -> String {
    let poll = if gateway.contains("poll_interval") { "" } else { "poll_interval_secs = 0.1\n" };
    let listen = if gateway.contains("listen = \"unix:") { "" } else { "listen = \"127.0.0.1:0\"\n" };
    let mut text = format!(
        "[gateway]\n{listen}metrics_listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
         {poll}drain_secs = 1.0\n{gateway}\n[policies]\ndirs = [\"policies\"]\ncache_dir = \"compiled\"\n"
    );
    for (at, node) in nodes.iter().enumerate() {
        text.push_str(&format!("[[neurons]]\nname = \"n{at}\"\nendpoint = \"http://{}\"\n", node.address));
    }
    text + more
}

/// A component that `cargo xtask build-policies` made.
pub fn built_policy(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/policies/{name}.wasm"));
    assert!(path.exists(), "{} is missing: run `cargo xtask setup` first", path.display());
    path
}
