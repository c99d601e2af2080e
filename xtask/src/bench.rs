//! `cargo xtask bench NAME`: measures and writes target/bench/NAME.json. Nothing here fails for being slow.

mod engine;
mod load;
mod sampling;

use crate::{paths, setup, sh};
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct Args {
    name: Name,
    #[command(flatten)]
    engine: engine::Options,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// What policies cost: decisions, events, swaps, loops
    Policy,
    /// What the gateway's control plane costs: cold loads, reloads, decisions; and swaps that it spares
    Fleet,
    /// What translation costs: events, whole answers, large requests, and a thousand streams at once
    Translate,
    /// What a request costs in the gateway, beside envoy, smg and vllm-router, which are installed for it (360 MB), and
    /// nginx where it is in PATH; 11 quiet minutes
    Gateway,
    /// neuron's engine beside llama.cpp, which is built for it: needs a C++ compiler and 20 quiet minutes
    Engine,
    /// What choosing a token, binding an answer and making vectors costs; beside sentence-transformers where
    /// CORTEX_BENCH_SENTENCE_TRANSFORMERS names the Python that has it
    Sampling,
    /// What this machine's first GPU copies and multiplies at, and what of that a model of 8 billion parameters gets
    Cuda,
    /// How fast models come from a hub, beside curl, and from the disk, beside reading them; needs curl
    Load,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let out = paths::artifact("bench");
    fs::create_dir_all(&out)?;
    let name = match args.name {
        Name::Policy => "policy",
        Name::Fleet => "fleet",
        Name::Translate => "translate",
        Name::Gateway => "gateway",
        Name::Engine => "engine",
        Name::Sampling => "sampling",
        Name::Cuda => "cuda",
        Name::Load => "load",
    };
    let file = out.join(format!("{name}.json"));
    match args.name {
        Name::Policy => of_host("policy", &file, &[])?,
        Name::Fleet => of_host("fleet", &file, &[])?,
        Name::Translate => of_host("translate", &file, &[])?,
        Name::Gateway => {
            let peers = std::env::var_os("CORTEX_BENCH_PEERS").map(|dir| Ok(dir.into()));
            let peers = peers.unwrap_or_else(crate::python::peers)?;
            of_host("gateway", &file, &[("CORTEX_BENCH_PEERS", &peers)])?;
        }
        Name::Engine => engine::run(&args.engine, &file)?,
        Name::Sampling => sampling::run(&file)?,
        Name::Cuda => crate::cuda::bench(&file)?,
        Name::Load => load::run(&file)?,
    }
    println!("written to {}", file.strip_prefix(paths::root()).unwrap_or(&file).display());
    Ok(())
}

/// One of the benches of host/benches.
fn of_host(name: &str, file: &Path, env: &[(&str, &PathBuf)]) -> Result<()> {
    setup::run(&setup::Args { all: false })?;
    let mut cargo = sh::cargo(&["bench", "--quiet", "--locked", "-p", "cortex", "--bench", name]);
    sh::run(cargo.envs(env.iter().copied()).env("CORTEX_BENCH_OUT", file))
}
