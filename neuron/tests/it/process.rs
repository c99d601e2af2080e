//! The program itself.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::json;
use tempfile::TempDir;

use crate::support::{Client, Gguf, TINY, tiny_hub};

fn neuron() -> Command {
    Command::new(env!("CARGO_BIN_EXE_neuron"))
}

fn config(text: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("neuron.toml"), text).unwrap();
    dir
}

fn check(text: &str) -> Output {
    let dir = config(text);
    neuron().args(["check", "--config"]).arg(dir.path().join("neuron.toml")).output().unwrap()
}

/// A daemon that is killed with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What the daemon has logged since it listens.
type Log = Arc<Mutex<Vec<String>>>;

fn serve(config: &TempDir) -> (Running, Client, Log) {
    serve_with(config, &[])
}

fn serve_with(config: &TempDir, env: &[(&str, &str)]) -> (Running, Client, Log) {
    let mut command = neuron();
    command.envs(env.iter().copied());
    command.arg("serve").arg("--config").arg(config.path().join("neuron.toml"));
    let child =
        command.args(["--listen", "127.0.0.1:0"]).env_remove("RUST_LOG").stderr(Stdio::piped()).spawn();
    let mut running = Running(child.unwrap());
    let mut lines = BufReader::new(running.0.stderr.take().unwrap()).lines();
    let address = loop {
        let line = lines.next().expect("the daemon says where it listens").unwrap();
        if let Some((_, address)) = line.split_once("listening on http://") {
            break address.trim().parse().unwrap();
        }
    };
    let log = Log::default();
    let kept = Arc::clone(&log);
    let keep = move || lines.map_while(Result::ok).for_each(|line| kept.lock().unwrap().push(line));
    std::thread::Builder::new().spawn(keep).unwrap();
    (running, Client::new(address), log)
}

/// A configuration with `hub` as its only, offline source; `more` is further TOML.
fn with_hub(hub: &TempDir, more: &str) -> TempDir {
    let cache = hub.path();
    config(&format!("{more}\n[sources.huggingface]\ncache_dir = {cache:?}\noffline = true"))
}

fn signal(running: &Running, name: &str) {
    let kill = Command::new("kill").args([name, &running.0.id().to_string()]).status().unwrap();
    assert!(kill.success());
}

/// How the daemon ended, which it has to within `limit`.
async fn end_of(running: &mut Running, limit: Duration) -> ExitStatus {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = running.0.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "it did not leave");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn check_says_what_is_wrong_and_where() {
    let good = check("[neuron]\nlisten = \"127.0.0.1:5\"\n");
    assert!(good.status.success());
    assert!(String::from_utf8(good.stdout).unwrap().contains("127.0.0.1:5"));
    let bad = check("[engine]\n\nmax_queue_deph = 4\n");
    let words = String::from_utf8(bad.stderr).unwrap();
    assert_eq!(bad.status.code(), Some(1));
    assert!(
        words.contains("neuron.toml:3: unknown key \"max_queue_deph\"; did you mean \"max_queue_depth\"?"),
        "{words}"
    );
    assert_eq!(neuron().arg("serve").output().unwrap().status.code(), Some(2));
}

#[test]
fn an_open_door_to_the_world_is_refused() {
    let dir = config("");
    let serve = neuron()
        .arg("serve")
        .arg("--config")
        .arg(dir.path().join("neuron.toml"))
        .args(["--listen", "0.0.0.0:0"])
        .output()
        .unwrap();
    assert_eq!(serve.status.code(), Some(1));
    assert!(String::from_utf8(serve.stderr).unwrap().contains("insecure_open"));
}

#[tokio::test]
async fn it_serves_and_leaves_when_told() {
    let hub = tiny_hub();
    let dir = with_hub(&hub, "[engine]\ndevices = \"cpu\"\nthreads = 1");
    let (mut running, client, _) = serve(&dir);
    assert_eq!(client.post("/models/load", json!({ "model_id": TINY })).await.status, 200);
    let pid = running.0.id();
    // threads = 1 went to candle by way of the environment.
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(String::from_utf8_lossy(&environment).contains("CANDLE_NUM_THREADS=1"));
    let device = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let names: Vec<String> =
        device.filter_map(|t| std::fs::read_to_string(t.path().join("comm")).ok()).collect();
    assert!(names.iter().any(|name| name.trim() == "cpu-dev-0"), "{names:?}");

    signal(&running, "-TERM");
    let status = end_of(&mut running, Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn loads_of_one_model_at_once_are_one_load() {
    let hub = tiny_hub();
    let (mut running, client, log) = serve(&with_hub(&hub, ""));
    let load = || client.post("/models/load", json!({ "model_id": TINY }));
    let replies = tokio::join!(load(), load(), load(), load());
    let statuses = [replies.0, replies.1, replies.2, replies.3].map(|reply| reply.status.as_u16());
    assert_eq!(statuses, [200; 4]);
    signal(&running, "-TERM");
    end_of(&mut running, Duration::from_secs(10)).await;
    // The last line comes through the pipe once the daemon has closed it.
    let deadline = Instant::now() + Duration::from_secs(5);
    while Arc::strong_count(&log) > 1 {
        assert!(Instant::now() < deadline, "the log has no end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let log = log.lock().unwrap();
    let loads = log.iter().filter(|line| line.contains("the model is loaded"));
    assert_eq!(loads.count(), 1, "{log:#?}");
}

#[tokio::test]
async fn the_users_hub_token_is_not_shown_to_a_mirror() {
    let mut tasks = tokio::task::JoinSet::new();
    let seen: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    let kept = Arc::clone(&seen);
    let mirror = axum::Router::new().fallback(async move |headers: http::HeaderMap| {
        let token = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
        kept.lock().unwrap().push(token);
        http::StatusCode::NOT_FOUND
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move { axum::serve(listener, mirror).await.unwrap() });
    let cache = tempfile::tempdir().unwrap();
    let dir =
        config(&format!("[sources.mirror]\nendpoint = \"http://{address}\"\ncache_dir = {:?}", cache.path()));
    let (_running, client, _) = serve_with(&dir, &[("HF_TOKEN", "mine")]);
    let reply = client.post("/models/load", json!({ "model_id": "mirror:test/tiny" })).await;
    assert_eq!(reply.status, 422);
    let seen = seen.lock().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(Option::is_none), "{seen:?}");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let hub = tempfile::tempdir().unwrap();
    Gguf::tiny("llama").with_number("llama.context_length", 4096).install(hub.path(), "tiny");
    let (mut running, client, _) = serve(&with_hub(&hub, "[neuron]\ndrain_secs = 60"));
    assert_eq!(client.post("/models/load", json!({ "model_id": TINY })).await.status, 200);
    let body = json!({ "model": TINY, "stream": true, "temperature": 0,
        "messages": [{ "role": "user", "content": "x" }] });
    let request = client.request(http::Method::POST, "/v1/chat/completions");
    let request = request.body(http_body_util::Full::from(body.to_string())).unwrap();
    let _stream = client.open(request).await;
    signal(&running, "-INT");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(running.0.try_wait().unwrap().is_none(), "the stream is given its time");
    signal(&running, "-INT");
    end_of(&mut running, Duration::from_secs(3)).await;
}

/// `neuron run` with its input in hand, and what it has said so far.
struct Talking {
    running: Running,
    input: std::process::ChildStdin,
    said: Arc<Mutex<String>>,
    _config: TempDir,
}

impl Talking {
    fn start(model: &str) -> Self {
        let config = config(&format!(
            "[sources.huggingface]\ncache_dir = {:?}\noffline = true",
            crate::support::hub()
        ));
        let mut command = neuron();
        command.args(["run", model, "--config"]).arg(config.path().join("neuron.toml"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("RUST_LOG");
        let mut running = Running(command.spawn().unwrap());
        let said = Arc::new(Mutex::new(String::new()));
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(running.0.stdout.take().unwrap()), Box::new(running.0.stderr.take().unwrap())];
        for mut output in outputs {
            let said = Arc::clone(&said);
            let keep = move || {
                let mut piece = [0; 4096];
                while let Ok(read @ 1..) = output.read(&mut piece) {
                    said.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..read]));
                }
            };
            std::thread::Builder::new().spawn(keep).unwrap();
        }
        Self { input: running.0.stdin.take().unwrap(), running, said, _config: config }
    }

    fn type_in(&mut self, line: &str) {
        use std::io::Write;
        writeln!(self.input, "{line}").unwrap();
    }

    /// Waits until it has said `words`.
    async fn until(&self, words: &str) {
        self.until_said(|said| said.contains(words), words).await;
    }

    async fn until_said(&self, holds: impl Fn(&str) -> bool, what: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds(&self.said.lock().unwrap()) {
            assert!(Instant::now() < deadline, "{what:?} is not in {:?}", self.said.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_conversation_in_the_terminal() {
    let mut talk = Talking::start(crate::support::MODEL);
    talk.until("loaded in").await;
    for line in ["/system Be brief.", "/set temperature 0", "Capital of France?"] {
        talk.type_in(line);
    }
    talk.until("The capital of France is Paris.").await;
    // It knows what was said, and an interrupt ends an answer and not the program.
    talk.type_in("/set max_tokens 4000");
    talk.type_in("/set ignore_eos true");
    talk.type_in("Write a very long story.");
    let before = talk.said.lock().unwrap().len();
    talk.until_said(|said| said.len() > before + 40, "a story").await;
    signal(&talk.running, "-INT");
    talk.until(" …\n").await;
    talk.type_in("/set");
    talk.until("\"ignore_eos\":true").await;
    talk.type_in("/set temperature hot");
    talk.type_in("x");
    talk.until("temperature is a string, where a number is expected").await;
    talk.type_in("/bye");
    assert!(end_of(&mut talk.running, Duration::from_secs(10)).await.success());
}

#[tokio::test]
async fn a_model_that_cannot_be_had_is_said_in_the_terminal() {
    let mut talk = Talking::start("no/such-model");
    talk.until("no/such-model cannot be loaded").await;
    assert!(!end_of(&mut talk.running, Duration::from_secs(10)).await.success());
}
