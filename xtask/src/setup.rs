//! `cargo xtask setup`: everything that is fetched, pinned. After it nothing needs a network.

use crate::{embedder, model, node, policies, python, samples, sh};
use anyhow::{Context, Result};
use std::process::Command;

const WASM_TARGET: &str = "wasm32-unknown-unknown";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also what `test --all` wants: a C compiler for the C sample (101 MB, in target/venv)
    #[arg(long)]
    pub(crate) all: bool,
}

/// Quick where everything is there already.
pub(crate) fn run(args: &Args) -> Result<()> {
    wasm_target()?;
    sh::run(&mut sh::cargo(&["fetch", "--quiet", "--locked"]))?;
    let python = python::environment()?;
    node::sdks(&python)?;
    model::ensure(&python)?;
    embedder::ensure(&python)?;
    if args.all {
        python::c_compiler(&python)?;
    }
    for name in samples::RUST {
        let manifest = samples::manifest(name);
        sh::run(&mut sh::cargo(&["fetch", "--quiet", "--locked", "--manifest-path", &manifest]))?;
    }
    policies::build()?;
    samples::build_rust()
}

/// rust-toolchain.toml names the target, but rustup installs it only where auto-install is on.
pub(crate) fn wasm_target() -> Result<()> {
    let Ok(sysroot) = sh::output(Command::new("rustc").args(["--print", "sysroot"])) else {
        anyhow::bail!("rustc does not run: install a Rust toolchain with rustup");
    };
    let target = std::path::Path::new(sysroot.trim()).join("lib/rustlib").join(WASM_TARGET);
    if target.is_dir() {
        return Ok(());
    }
    println!("adding the Rust target {WASM_TARGET}");
    sh::run(Command::new("rustup").args(["target", "add", WASM_TARGET])).context(
        "the target cannot be added; without rustup, install your distribution's wasm32-unknown-unknown std",
    )
}
