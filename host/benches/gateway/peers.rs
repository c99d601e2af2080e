//! The proxies that are compared, each as its makers would set it up for this.

use super::process::Process;
use super::{load::Load, mock};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub struct Peer {
    pub name: &'static str,
    pub key: Option<&'static str>,
    /// The command, where the program is there; files go into the directory.
    command: fn(&Path, u16, SocketAddr) -> Option<Vec<String>>,
}

pub struct Running {
    pub peer: &'static Peer,
    pub process: Process,
    pub address: SocketAddr,
    _dirs: [TempDir; 2],
}

pub const KEY: &str = "sk-bench-0123456789";

pub static PEERS: [Peer; 8] = [
    Peer {
        name: "cortex",
        key: Some(KEY),
        command: |dir, port, mock| cortex(dir, port, mock, Cortex::default()),
    },
    Peer {
        name: "cortex-no-policy",
        key: Some(KEY),
        command: |dir, port, mock| cortex(dir, port, mock, Cortex { policy: false, ..Cortex::default() }),
    },
    Peer {
        name: "cortex-no-keys",
        key: None,
        command: |dir, port, mock| cortex(dir, port, mock, Cortex { keys: false, ..Cortex::default() }),
    },
    Peer {
        name: "cortex-log",
        key: Some(KEY),
        command: |dir, port, mock| cortex(dir, port, mock, Cortex { log: "info", ..Cortex::default() }),
    },
    Peer { name: "envoy", key: None, command: envoy },
    Peer { name: "nginx", key: None, command: nginx },
    Peer { name: "smg", key: None, command: |_, port, mock| router("smg", &["launch"], port, mock) },
    Peer { name: "vllm-router", key: None, command: |_, port, mock| router("vllm-router", &[], port, mock) },
];

/// What of cortex is on; metrics always are.
pub struct Cortex {
    policy: bool,
    keys: bool,
    /// The others write no line a request either.
    log: &'static str,
}

impl Default for Cortex {
    fn default() -> Self {
        Self { policy: true, keys: true, log: "warn" }
    }
}

impl Peer {
    /// Once it answers; `None`, with a word of why, where it is not there.
    pub fn start(&'static self, mock: SocketAddr) -> Option<Running> {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let Some(command) = (self.command)(dir.path(), port, mock) else {
            println!("{} is not installed, and is left out", self.name);
            return None;
        };
        // Beside the directory, which cortex watches for changes of its configuration.
        let logs = tempfile::tempdir().unwrap();
        let log = logs.path().join("log");
        let process = Process::start(0, &command, Some(&log));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let started = Instant::now();
        let load = Load { address, key: self.key, stream: false, path: super::load::CHAT };
        while !is_serving(load) {
            if started.elapsed() > Duration::from_secs(60) {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                println!(
                    "{} does not serve, and is left out: {}",
                    self.name,
                    &log[log.len().saturating_sub(2000)..]
                );
                return None;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Some(Running { peer: self, process, address, _dirs: [dir, logs] })
    }
}

/// A whole answer of the model's.
pub fn is_serving(load: Load) -> bool {
    use std::io::{Read, Write};
    let request = super::load::request(load, "Ahoy");
    let ask = || {
        let mut stream = std::net::TcpStream::connect(load.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(&request).ok()?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).ok()?;
        Some(answer.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The release build.
pub fn cortex(
    dir: &Path,
    port: u16,
    mock: SocketAddr,
    Cortex { policy, keys, log }: Cortex,
) -> Option<Vec<String>> {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/policies");
    let dirs = if policy { format!("{policies:?}") } else { String::new() };
    let key = "[[keys]]\nname = \"bench\"\nkey_env = \"BENCH_KEY\"\n";
    let config = format!(
        "[gateway]\nlisten = \"127.0.0.1:{port}\"\nmetrics_listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
         [policies]\ndirs = [{dirs}]\n[[neurons]]\nname = \"mock\"\nendpoint = \"http://{mock}\"\n{}",
        if keys { key } else { "" }
    );
    std::fs::write(dir.join("cortex.toml"), config).unwrap();
    std::fs::write(dir.join("models.toml"), format!("[[models]]\nid = \"{}\"\n", mock::MODEL)).unwrap();
    let config = dir.join("cortex.toml").display().to_string();
    // One thread for one core, as envoy and nginx are told.
    let (key, log) = (format!("BENCH_KEY={KEY}"), format!("RUST_LOG={log}"));
    Some(strings(&[
        "env",
        &key,
        &log,
        "TOKIO_WORKER_THREADS=1",
        env!("CARGO_BIN_EXE_cortex"),
        "serve",
        "--config",
        &config,
    ]))
}

fn envoy(dir: &Path, port: u16, mock: SocketAddr) -> Option<Vec<String>> {
    let program = installed("envoy")?;
    let config = format!(
        r#"
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: mock, timeout: 0s}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: mock
    type: STATIC
    connect_timeout: 2s
    load_assignment:
      cluster_name: mock
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}
"#,
        mock.port()
    );
    std::fs::write(dir.join("envoy.yaml"), config).unwrap();
    let file = dir.join("envoy.yaml").display().to_string();
    let program = program.display().to_string();
    Some(strings(&[&program, "-c", &file, "--concurrency", "1", "-l", "warn", "--disable-hot-restart"]))
}

fn nginx(dir: &Path, port: u16, mock: SocketAddr) -> Option<Vec<String>> {
    let program = installed("nginx")?;
    let config = format!(
        "worker_processes 1;\ndaemon off;\npid {dir}/pid;\nerror_log stderr;\nevents {{ worker_connections 4096; }}\n\
         http {{\n access_log off;\n client_body_temp_path {dir};\n proxy_temp_path {dir};\n fastcgi_temp_path {dir};\n \
         uwsgi_temp_path {dir};\n scgi_temp_path {dir};\n keepalive_requests 1000000;\n\
         upstream mock {{ server {mock}; keepalive 64; keepalive_requests 1000000; }}\n\
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://mock; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_buffering off; }} }}\n}}\n",
        dir = dir.display()
    );
    std::fs::write(dir.join("nginx.conf"), config).unwrap();
    let file = dir.join("nginx.conf").display().to_string();
    let program = program.display().to_string();
    Some(strings(&[&program, "-p", &dir.display().to_string(), "-c", &file]))
}

fn router(name: &str, args: &[&str], port: u16, mock: SocketAddr) -> Option<Vec<String>> {
    let program = installed(name)?.display().to_string();
    let (port, worker, prometheus) = (port.to_string(), format!("http://{mock}"), free_port().to_string());
    let mut command = vec![program];
    command.extend(strings(args));
    command.extend(strings(&["--host", "127.0.0.1", "--port", &port, "--worker-urls", &worker]));
    command.extend(strings(&[
        "--policy",
        "round_robin",
        "--prometheus-port",
        &prometheus,
        "--log-level",
        "error",
    ]));
    Some(command)
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// Where `cargo xtask bench gateway` puts what it fetches, or where the machine has it.
fn installed(name: &str) -> Option<PathBuf> {
    let fetched = std::env::var_os("CORTEX_BENCH_PEERS").map(PathBuf::from);
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let dirs = fetched.into_iter().chain(std::env::split_paths(&paths)).chain(["/usr/sbin".into()]);
    dirs.map(|dir| dir.join(name)).find(|path| path.is_file())
}
