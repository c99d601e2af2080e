//! One neuron and one cortex on loopback, with the example configurations.

use super::ask;
use crate::{model, paths, release};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use toml::{Table, Value};

/// What runs and where. Dropped, it ends what it started.
pub(super) struct Fleet {
    pub(super) gateway: String,
    pub(super) metrics: String,
    pub(super) admin: String,
    pub(super) neuron: String,
    pub(super) model: String,
    /// The directory that cortex watches.
    pub(super) policies: PathBuf,
    dir: PathBuf,
    children: Arc<Mutex<Vec<Child>>>,
}

impl Fleet {
    pub(super) fn start() -> Result<Self> {
        let dir = paths::artifact("demo");
        let policies = dir.join("policies");
        fs::create_dir_all(&policies)?;
        for entry in fs::read_dir(paths::artifact("policies"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "wasm") {
                fs::copy(&path, policies.join(path.file_name().unwrap_or_default()))?;
            }
        }
        let mut taken = Vec::new();
        let mut address = |from: u16| free_port(from, &mut taken).map(|port| format!("127.0.0.1:{port}"));
        let [listen, metrics, admin, neuron] =
            [address(31313)?, address(31314)?, address(31315)?, address(13131)?];
        configure(&dir, &policies, [&listen, &metrics, &admin, &neuron])?;
        let url = |address: &str| format!("http://{address}");
        let mut fleet = Self {
            gateway: url(&listen),
            metrics: url(&metrics),
            admin: url(&admin),
            neuron: url(&neuron),
            model: model::ID.into(),
            policies,
            dir,
            children: Arc::default(),
        };
        let children = fleet.children.clone();
        // Ctrl-C and a kill end the children too, also where they are not in the terminal's group.
        ctrlc::set_handler(move || {
            end(&children);
            std::process::exit(130);
        })?;
        fleet.spawn("neuron")?;
        fleet.spawn("cortex")?;
        fleet.until_up()?;
        Ok(fleet)
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        let path = self.dir.join(format!("{name}.log"));
        path.strip_prefix(paths::root()).map(Path::to_owned).unwrap_or(path)
    }

    fn spawn(&mut self, name: &str) -> Result<()> {
        let log = File::create(self.dir.join(format!("{name}.log")))?;
        let child = Command::new(release::binary(name))
            .args(["serve", "--config"])
            .arg(self.dir.join(format!("{name}.toml")))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        lock(&self.children).push(child);
        Ok(())
    }

    fn until_up(&self) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(30) {
            for child in lock(&self.children).iter_mut() {
                if let Some(status) = child.try_wait()? {
                    bail!(
                        "a process ended ({status}); see {} and {}",
                        self.log("neuron").display(),
                        self.log("cortex").display()
                    );
                }
            }
            let health = ask::get(&format!("{}/health", self.gateway));
            if health.is_ok_and(|h| h["nodes_up"] == 1) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("not up after 30 s; see {} and {}", self.log("neuron").display(), self.log("cortex").display())
    }

    /// Until one of the processes ends.
    pub(super) fn wait(&self) -> Result<()> {
        loop {
            for child in lock(&self.children).iter_mut() {
                if let Some(status) = child.try_wait()? {
                    bail!("a process ended ({status}); see {}", self.dir.display());
                }
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        end(&self.children);
    }
}

fn end(children: &Mutex<Vec<Child>>) {
    for mut child in lock(children).drain(..) {
        let _already_gone = child.kill();
        let _reaped = child.wait();
    }
}

fn lock(children: &Mutex<Vec<Child>>) -> std::sync::MutexGuard<'_, Vec<Child>> {
    children.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// `from`, or the next port that is free.
fn free_port(from: u16, taken: &mut Vec<u16>) -> Result<u16> {
    let free = |port: &u16| !taken.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = (from..from.saturating_add(200))
        .find(free)
        .with_context(|| format!("no free port from {from} on"))?;
    taken.push(port);
    Ok(port)
}

/// The example files with this machine's addresses and folders in them.
fn configure(dir: &Path, policies: &Path, [listen, metrics, admin, neuron]: [&str; 4]) -> Result<()> {
    let root = paths::root();
    let read = |path: &str| -> Result<Table> { Ok(fs::read_to_string(root.join(path))?.parse()?) };
    let mut cortex = read("packaging/cortex.example.toml")?;
    set(&mut cortex, &["gateway", "listen"], listen);
    set(&mut cortex, &["gateway", "metrics_listen"], metrics);
    set(&mut cortex, &["gateway", "admin_listen"], admin);
    set(&mut cortex, &["gateway", "models"], "models.toml");
    let dirs = Value::Array(vec![policies.to_string_lossy().into_owned().into()]);
    set(&mut cortex, &["policies", "dirs"], dirs);
    set(&mut cortex, &["policies", "cache_dir"], "compiled");
    if let Some(node) = cortex.get_mut("neurons").and_then(|n| n.get_mut(0)).and_then(Value::as_table_mut) {
        node.insert("endpoint".into(), format!("http://{neuron}").into());
    }
    fs::write(dir.join("cortex.toml"), cortex.to_string())?;
    fs::copy(root.join("packaging/models.example.toml"), dir.join("models.toml"))?;

    let mut node = read("packaging/neuron.example.toml")?;
    set(&mut node, &["neuron", "listen"], neuron);
    let hub = paths::artifact("models").to_string_lossy().into_owned();
    set(&mut node, &["sources", "huggingface", "cache_dir"], hub);
    Ok(fs::write(dir.join("neuron.toml"), node.to_string())?)
}

fn set(table: &mut Table, path: &[&str], value: impl Into<Value>) {
    let [sections @ .., key] = path else { return };
    let mut at = table;
    for section in sections {
        let next = at.entry(*section).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(next) = next else { return };
        at = next;
    }
    at.insert((*key).to_owned(), value.into());
}
