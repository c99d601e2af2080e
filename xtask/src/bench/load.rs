//! `cargo xtask bench load`: how fast a model comes from a hub beside curl, and from the disk beside reading it; what
//! preflight costs, and how near its estimate is.

use crate::{model, paths, release, setup, sh};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const ROUNDS: usize = 5;
/// Of the file that is fetched.
const MIB: usize = 512;
/// What is aimed at: at most (<) or at least (>).
const FIGURES: [(&str, &str); 8] = [
    ("load_mb_per_s", ""),
    ("load_over_read", "> 0.5"),
    ("peak_over_resident", "< 1.2"),
    ("estimate_error_percent", "0 to 10"),
    ("preflight_ms", "< 20"),
    ("download_mb_per_s", ""),
    ("curl_mb_per_s", ""),
    ("download_over_curl", "> 0.7"),
];

pub(super) fn run(file: &Path) -> Result<()> {
    setup::run(&setup::Args { all: false })?;
    println!("building neuron in release");
    release::build()?;
    let mut figures = Map::new();
    let dir = paths::artifact("bench").join("load");
    fs::create_dir_all(&dir)?;
    loads(&dir, &mut figures)?;
    downloads(&dir, &mut figures)?;
    fs::remove_dir_all(&dir)?;
    for (name, aim) in FIGURES {
        if let Some(figure) = figures.get(name).and_then(Value::as_f64) {
            println!("{name:<24} {figure:>10.2}   {aim}");
        }
    }
    Ok(fs::write(file, serde_json::to_string_pretty(&figures)? + "\n")?)
}

/// A neuron that serves, until it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts it, and returns where it says that it listens.
fn start(args: &[&str], last: &Path) -> Result<(Running, String)> {
    let mut command = Command::new(release::binary("neuron"));
    let child = command.args(args).arg(last).env("RUST_LOG", "info").stderr(Stdio::piped()).spawn()?;
    let mut running = Running(child);
    let said = running.0.stderr.take().context("its log")?;
    let mut lines = BufReader::new(said).lines();
    while let Some(line) = lines.next().transpose()? {
        if let Some((_, address)) = line.split_once("http://") {
            let address = address.split_whitespace().next().unwrap_or_default().to_owned();
            // It goes on saying things, and must not find that nobody listens.
            let drain = std::thread::Builder::new().name("neuron's log".to_owned());
            drain.spawn(move || lines.for_each(drop))?;
            return Ok((running, format!("http://{address}")));
        }
    }
    bail!("neuron has ended without saying where it listens")
}

fn loads(dir: &Path, figures: &mut Map<String, Value>) -> Result<()> {
    let (config, hub) = (dir.join("neuron.toml"), paths::artifact("models"));
    let text = "[neuron]\nlisten = \"127.0.0.1:0\"\n[sources.huggingface]\noffline = true\n";
    fs::write(&config, format!("{text}cache_dir = {hub:?}\n"))?;
    let neuron = || Command::new(release::binary("neuron"));
    let report = |command: &mut Command| -> Result<Value> {
        Ok(serde_json::from_str(&sh::output(command.args(["--json", "--config"]).arg(&config))?)?)
    };
    let mut preflights = Vec::new();
    let mut said = Value::Null;
    for _ in 0..=ROUNDS {
        let started = Instant::now();
        said = report(neuron().args(["preflight", model::ID]))?;
        preflights.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let path = PathBuf::from(sh::output(neuron().args(["pull", model::ID, "--config"]).arg(&config))?.trim());
    let size = fs::metadata(&path)?.len() as f64;
    let (running, url) = start(&["serve", "--config"], &config)?;
    let post = |path: &str| -> Result<f64> {
        let started = Instant::now();
        let body = json!({ "model_id": model::ID }).to_string();
        ureq::post(format!("{url}{path}")).content_type("application/json").send(&body)?;
        Ok(started.elapsed().as_secs_f64())
    };
    let before = memory(running.0.id(), "RssAnon")?;
    let (mut reads, mut loads, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut buffer = vec![0; 1 << 20];
    for round in 0..=ROUNDS {
        let load = post("/models/load")?;
        if round == 0 {
            let (resident, peak) = (memory(running.0.id(), "VmRSS")?, memory(running.0.id(), "VmHWM")?);
            figures.insert("peak_over_resident".into(), json!(peak / resident));
            let part = |name: &str| said[name].as_f64().context("the estimate");
            let estimated = (part("weights_mb")? + part("text_mb")?) * 1024.0;
            // Without the program's own pages, which come in as they are run.
            let taken = memory(running.0.id(), "RssAnon")? - before;
            figures.insert("estimate_error_percent".into(), json!((estimated - taken) / taken * 100.0));
        }
        post("/models/unload")?;
        let (started, mut file) = (Instant::now(), File::open(&path)?);
        while file.read(&mut buffer)? > 0 {}
        let read = started.elapsed().as_secs_f64();
        if round > 0 {
            loads.push(size / load / 1e6);
            reads.push(read);
            ratios.push(read / load);
        }
    }
    figures.insert("load_mb_per_s".into(), json!(median(loads)));
    figures.insert("load_over_read".into(), json!(median(ratios)));
    figures.insert("preflight_ms".into(), json!(median(preflights.split_off(1))));
    Ok(())
}

fn downloads(dir: &Path, figures: &mut Map<String, Value>) -> Result<()> {
    let (shelf, cache) = (dir.join("shelf"), dir.join("cache"));
    fs::create_dir_all(shelf.join("bench/big"))?;
    let mut file = File::create(shelf.join("bench/big/big.Q8_0.gguf"))?;
    let mut block: Vec<u8> = (0..1u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for n in 0..MIB {
        block[0] = (n % 251) as u8;
        file.write_all(&block)?;
    }
    drop(file);
    let (_running, url) = start(&["registry", "--listen", "127.0.0.1:0"], &shelf)?;
    let path = format!("{url}/bench/big/resolve/main/big.Q8_0.gguf");
    // It is read and hashed once, by whoever asks first.
    sh::output(Command::new("curl").args(["-sfI", &path]))?;
    let config = dir.join("pull.toml");
    fs::write(&config, format!("[sources.huggingface]\nendpoint = {url:?}\ncache_dir = {cache:?}\n"))?;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        fs::remove_dir_all(&cache).ok();
        let timed = |command: &mut Command| -> Result<f64> {
            let started = Instant::now();
            sh::output(command)?;
            Ok(started.elapsed().as_secs_f64())
        };
        let mut pull = Command::new(release::binary("neuron"));
        let pull = timed(pull.args(["pull", "bench/big", "--config"]).arg(&config))?;
        let curl = timed(Command::new("curl").args(["-sf", "-o"]).arg(dir.join("by-curl")).arg(&path))?;
        if round > 0 {
            let megabytes = (MIB << 20) as f64 / 1e6;
            ours.push(megabytes / pull);
            theirs.push(megabytes / curl);
            ratios.push(curl / pull);
        }
    }
    figures.insert("download_mb_per_s".into(), json!(median(ours)));
    figures.insert("curl_mb_per_s".into(), json!(median(theirs)));
    figures.insert("download_over_curl".into(), json!(median(ratios)));
    Ok(())
}

/// A line of /proc/PID/status, kB.
fn memory(pid: u32, key: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()).context("the process's memory")?;
    Ok(number.parse()?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
