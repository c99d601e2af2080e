//! What preflight says that a load takes, against what the process grows by, for every model that tests have.

use std::process::{Child, Command, Stdio};
use std::{
    io::{BufRead, BufReader},
    path::Path,
};

use serde_json::{Value, json};

use crate::{
    references,
    support::{Client, MODEL, hub},
};

/// A daemon of its own, killed with its test: what others do in a process would show in its memory.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Running {
    fn start(dir: &Path, hub: &Path) -> (Self, Client) {
        let config = dir.join("neuron.toml");
        let text = format!("[sources.huggingface]\ncache_dir = {hub:?}\noffline = true\n");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_neuron"));
        command.arg("serve").arg("--config").arg(config).args(["--listen", "127.0.0.1:0"]);
        let child = command.env_remove("RUST_LOG").stderr(Stdio::piped()).spawn().unwrap();
        let mut running = Self(child);
        let mut lines = BufReader::new(running.0.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("the daemon says where it listens").unwrap();
            if let Some((_, address)) = line.split_once("listening on http://") {
                break address.trim().parse().unwrap();
            }
        };
        let drain = move || lines.map_while(Result::ok).for_each(drop);
        std::thread::Builder::new().spawn(drain).unwrap();
        (running, Client::new(address))
    }

    /// MiB of memory that are no file's.
    fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let kb: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kb / 1024.0
    }
}

struct Seen {
    /// MiB that preflight said.
    estimated: f64,
    /// MiB that the load took.
    taken: f64,
    /// MiB that were not given back by the unload.
    left: f64,
}

async fn see(daemon: &Running, client: &Client, model: &str, quant: Option<&str>) -> Seen {
    let body = json!({ "model_id": model, "quant": quant });
    let ask = async |path: &str| -> Value {
        let reply = client.post(path, body.clone()).await;
        assert_eq!(reply.status, 200, "{model} {path}: {}", reply.json());
        reply.json()
    };
    let looked = ask("/models/preflight").await;
    let mb = |key: &str| looked[key].as_u64().unwrap() as f64;
    // What preflight itself has touched is no part of it.
    client.post("/defrag", json!({})).await;
    let before = daemon.memory();
    ask("/models/load").await;
    let taken = daemon.memory() - before;
    ask("/models/unload").await;
    let left = daemon.memory() - before;
    Seen { estimated: mb("weights_mb") + mb("text_mb"), taken, left }
}

/// Never less than the load takes, and at most a tenth more; of small models, of which threads and the like are most,
/// at most a few MiB more.
#[tokio::test]
async fn estimates_are_what_loads_take() {
    let dir = tempfile::tempdir().unwrap();
    // One hub with the models that are fetched and those that lie in the repository.
    let all = dir.path().join("hub");
    std::fs::create_dir(&all).unwrap();
    for entry in std::fs::read_dir(hub()).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::symlink(entry.path(), all.join(entry.file_name())).unwrap();
    }
    let mut models = vec![
        (MODEL.to_owned(), None),
        ("sentence-transformers/all-MiniLM-L6-v2".to_owned(), None),
        ("test/qwen3".to_owned(), Some("q4k")),
    ];
    for name in references::names() {
        let folder = references::install(&all, name);
        // Some have weights in GGUF as well, without a tokenizer.
        std::fs::remove_file(folder.join("model.gguf")).ok();
        if folder.join("tokenizer.json").exists() {
            models.push((format!("test/{name}"), None));
        }
    }
    let (daemon, client) = Running::start(dir.path(), &all);
    // The first load brings threads and buffers that stay.
    see(&daemon, &client, MODEL, None).await;
    let base = daemon.memory();
    let (mut lines, mut wrong) = (Vec::new(), false);
    for (model, quant) in models {
        let Seen { estimated, taken, left } = see(&daemon, &client, &model, quant).await;
        let is_right = taken <= estimated && estimated <= (taken * 1.1).max(taken + 6.0) && left < 8.0;
        wrong |= !is_right;
        let mark = if is_right { " " } else { "!" };
        lines.push(format!("{mark} {model}: {estimated} MiB estimated, {taken:.1} taken, {left:.1} left"));
    }
    // What is left of one is there for the next: it does not add up.
    let more = daemon.memory() - base;
    lines.push(format!("{more:.1} MiB more after all of them"));
    assert!(!wrong && more < 16.0 && lines.len() > 20, "{}", lines.join("\n"));
}
