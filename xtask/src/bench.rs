//! `cargo xtask bench NAME`: measures and writes target/bench/NAME.json. Nothing here fails for being slow.

use crate::{paths, setup, sh};
use anyhow::Result;
use std::fs;

#[derive(clap::Args)]
pub(crate) struct Args {
    name: Name,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// What policies cost: decisions, events, swaps, loops
    Policy,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { all: false })?;
    let (package, name) = match args.name {
        Name::Policy => ("cortex", "policy"),
    };
    let out = paths::artifact("bench");
    fs::create_dir_all(&out)?;
    let file = out.join(format!("{name}.json"));
    let mut cargo = sh::cargo(&["bench", "--quiet", "--locked", "-p", package, "--bench", name]);
    sh::run(cargo.env("CORTEX_BENCH_OUT", &file))?;
    println!("written to {}", file.strip_prefix(paths::root()).unwrap_or(&file).display());
    Ok(())
}
