//! `cargo xtask bench sampling`: what it costs neuron to choose a token, to bind an answer, and to make a vector of a
//! text, the last beside sentence-transformers on the same cores.

use crate::{embedder, model, paths, release, setup, sh};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The Python of an environment with sentence-transformers; without it there is no peer. It is some gigabytes.
const PEER: &str = "CORTEX_BENCH_SENTENCE_TRANSFORMERS";
const TEXTS: usize = 512;

/// Measured there, and what is aimed at: at most (<) or at least (>).
const FIGURES: [(&str, &str); 16] = [
    ("greedy_us", ""),
    ("temperature_us", ""),
    ("top_k_us", ""),
    ("top_p_us", ""),
    ("min_p_us", ""),
    ("full_chain_us", "< 300"),
    ("vocabulary_ms", ""),
    ("compile_ms_p50", ""),
    ("mask_us_p50", "< 50"),
    ("mask_us_p99", "< 1000"),
    ("plain_tok_s", ""),
    ("structured_tok_s", ""),
    ("structured_over_plain", "> 0.95"),
    ("embeddings_per_s", ""),
    ("peer_embeddings_per_s", ""),
    ("embeddings_over_peer", "> 1.0"),
];

pub(super) fn run(file: &Path) -> Result<()> {
    setup::run(&setup::Args { all: false })?;
    println!("building neuron in release");
    release::build()?;
    let dir = paths::artifact("bench");
    let (config, data) = (dir.join("sampling.toml"), dir.join("sampling-data.json"));
    let hub = paths::artifact("models");
    fs::write(&config, format!("[sources.huggingface]\ncache_dir = {hub:?}\noffline = true\n"))?;
    fs::write(&data, json!({ "schemas": schemas()?, "texts": texts() }).to_string())?;
    let mut neuron = Command::new(release::binary("neuron"));
    neuron.arg("bench-sampling").args(["--model", model::ID, "--embedder", embedder::ID, "--config"]);
    neuron.arg(&config).arg("--data").arg(&data).env("RUST_LOG", "warn");
    match std::env::var_os(PEER) {
        None => println!("{PEER} names no Python: there is nothing to compare embeddings with"),
        Some(python) => {
            let script = dir.join("embeddings-peer.py");
            fs::write(&script, PEER_SCRIPT)?;
            neuron.arg("--peer").arg(python).arg(script).arg(&data).arg(embedder::folder());
        }
    }
    let figures: Value =
        serde_json::from_str(sh::output(&mut neuron)?.trim()).context("what neuron measured")?;
    for (name, aim) in FIGURES {
        if let Some(figure) = figures[name].as_f64() {
            println!("{name:<24} {figure:>10.2}   {aim}");
        }
    }
    Ok(fs::write(file, serde_json::to_string_pretty(&figures)? + "\n")?)
}

/// The corpus of the tests.
fn schemas() -> Result<Value> {
    let corpus = fs::read(paths::root().join("neuron/tests/data/schemas.json"))?;
    Ok(serde_json::from_slice::<Value>(&corpus)?["enforced"].take())
}

/// From a few words to some hundred, as documents that are searched are.
fn texts() -> Vec<String> {
    let words =
        ["river", "engine", "of", "the", "a", "quickly", "under", "memory", "paper", "seven", "is", "blue"];
    let text = |n: usize| {
        let length = 6 + (n * 37) % 120;
        (0..length).map(|k| words[(n * 7 + k * k + k) % words.len()]).collect::<Vec<_>>().join(" ")
    };
    (0..TEXTS).map(text).collect()
}

const PEER_SCRIPT: &str = "
import json, os, sys, time
os.environ['HF_HUB_OFFLINE'] = '1'
import torch
torch.set_num_threads(os.cpu_count())
from sentence_transformers import SentenceTransformer
texts = json.load(open(sys.argv[1]))['texts']
model = SentenceTransformer(sys.argv[2], device='cpu')
for line in sys.stdin:
    started = time.perf_counter()
    model.encode(texts, batch_size=32, show_progress_bar=False)
    print(len(texts) / (time.perf_counter() - started), flush=True)
";
