//! A server of either engine on loopback, for as long as it is held.

use super::{Bench, machine, weights};
use crate::paths;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use toml::toml;

/// Both servers compute with so many.
const THREADS: u32 = 2;
/// llama-server divides its context among its slots: 2,048 tokens a user.
const LLAMA_CONTEXT: u32 = 16384;
/// To come up, with the model where the server loads it at start.
const START: Duration = Duration::from_secs(60);
/// For a whole answer, however slow.
const ANSWER: Duration = Duration::from_secs(600);

/// Dropped, it ends.
pub(super) struct Server {
    pub(super) url: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// A neuron that has loaded nothing.
    pub(super) fn neuron(bench: &Bench) -> Result<Self> {
        let dir = paths::artifact("bench");
        let (listen, hub) = (format!("127.0.0.1:{}", free_port()?), weights::hub().display().to_string());
        let threads = i64::from(THREADS);
        let config = toml! {
            [neuron]
            listen = (listen.as_str())
            [engine]
            threads = threads
            [sources.huggingface]
            cache_dir = hub
            offline = true
        };
        let file = dir.join("neuron.toml");
        fs::write(&file, config.to_string())?;
        let mut command = machine::pinned(&bench.neuron, THREADS);
        command.args(["serve", "--config"]).arg(file);
        Self::start(command, &listen, "neuron")
    }

    /// A llama-server with `file`, which as many users share.
    pub(super) fn llama(bench: &Bench, file: &std::path::Path, users: usize) -> Result<Self> {
        let port = free_port()?;
        let mut command = machine::pinned(&bench.llama.server, THREADS);
        command.arg("-m").arg(file).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["-np", &users.to_string(), "-c", &LLAMA_CONTEXT.to_string()]);
        command.args(["--threads", &THREADS.to_string(), "--offline"]);
        Self::start(command, &format!("127.0.0.1:{port}"), "llama-server")
    }

    fn start(mut command: Command, listen: &str, name: &str) -> Result<Self> {
        let log = paths::artifact("bench").join(format!("{name}.log"));
        let file = File::create(&log)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        let child =
            child.with_context(|| format!("cannot start {name} (taskset is of Debian's util-linux)"))?;
        let mut server = Self { url: format!("http://{listen}"), child, log };
        let started = Instant::now();
        while started.elapsed() < START {
            if let Some(status) = server.child.try_wait()? {
                bail!("{name} ended ({status}); see {}", server.log.display());
            }
            if server.health().is_ok() {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{name} is not up after {START:?}; see {}", server.log.display())
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns once neuron has the model.
    pub(super) fn load(&self, weights: &weights::Weights) -> Result<()> {
        let request = json!({"model_id": weights::ID, "harness": "candle", "quant": weights.quant});
        let mut response = agent()
            .post(format!("{}/models/load", self.url))
            .header("content-type", "application/json")
            .send(request.to_string())?;
        let (status, text) = (response.status(), response.body_mut().read_to_string()?);
        if !status.is_success() {
            bail!("neuron does not load {}: {text}", weights.quant);
        }
        Ok(())
    }

    /// `GET /health`, which llama-server refuses until it is ready.
    pub(super) fn health(&self) -> Result<Value> {
        let mut response = agent().get(format!("{}/health", self.url)).call()?;
        let (status, text) = (response.status(), response.body_mut().read_to_string()?);
        if !status.is_success() {
            bail!("/health answered {status}: {text}");
        }
        Ok(serde_json::from_str(&text)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A refusal is an answer, whose body says why. Every request has a connection of its own: servers close idle
/// ones when they like.
pub(super) fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(ANSWER));
    config.max_idle_connections_per_host(0).build().new_agent()
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
