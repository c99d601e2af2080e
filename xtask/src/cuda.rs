//! `cargo xtask cuda`: neuron for GPUs, on a machine with or without one.

mod bundle;
mod toolkit;

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::{paths, sh};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Fetch NVIDIA's compiler, pinned (104 MB), into the user's cache
    Setup,
    /// Compile, lint and test all that needs no GPU: the kernels for every architecture, the engine on the emulated device
    Check,
    /// Build neuron with kernels for GPUs in release; NEURON_CUDA_ARCHITECTURES=90 for one architecture alone
    Build,
    /// Pack what runs the GPU's tests and figures on a machine without Rust and without a network: target/cuda-bundle.tar.gz
    Bundle,
    /// Test on the GPUs of this machine: the kernels, the engine, and the daemon
    Test,
}

/// Which tests run on a device of one's own.
pub(crate) const TESTS: &str = "gpu::";
/// Tells them to run on this machine's first GPU.
pub(crate) const ON_GPU: (&str, &str) = ("NEURON_TEST_DEVICE", "cuda");

pub(crate) fn run(args: &Args) -> Result<()> {
    match args.task {
        Task::Setup => toolkit::ensure().map(|_| ()),
        Task::Check => check(),
        Task::Build => build(),
        Task::Bundle => bundle::pack(),
        Task::Test => test(),
    }
}

/// A cargo that finds the compiler.
pub(crate) fn cargo(args: &[&str]) -> Result<Command> {
    let mut command = sh::cargo(args);
    command.env("CUDA_HOME", toolkit::ensure()?);
    Ok(command)
}

fn check() -> Result<()> {
    let features = ["--features", "neuron/cuda,neuron-cuda/emulated"];
    let packages = ["-p", "neuron", "-p", "neuron-cuda"];
    let lint = [
        &["clippy", "--quiet", "--locked"],
        &packages[..],
        &features,
        &["--all-targets", "--", "-D", "warnings"],
    ];
    sh::run(&mut cargo(&lint.concat())?)?;
    let kernels = [&["test", "--locked", "-p", "neuron-cuda"][..], &["--features", "emulated,kernels"]];
    sh::run(&mut cargo(&kernels.concat())?)?;
    let engine = ["test", "--locked", "-p", "neuron", "--features", "cuda", "--test", "it", "--", TESTS];
    sh::run(&mut cargo(&engine)?)?;
    println!("cuda: the kernels compile for every architecture; what needs a GPU: cargo xtask cuda test");
    Ok(())
}

pub(crate) fn build() -> Result<()> {
    sh::run(&mut cargo(&["build", "--release", "--locked", "-p", "neuron", "--features", "cuda"])?)?;
    println!("built {}", paths::cargo_target().join("release/neuron").display());
    Ok(())
}

/// The figures of this machine's first GPU.
pub(crate) fn bench(file: &Path) -> Result<()> {
    build()?;
    let neuron = paths::cargo_target().join("release/neuron");
    let figures = sh::output(Command::new(neuron).args(["bench-gpu", "--json"]))?;
    print!("{figures}");
    Ok(std::fs::write(file, figures)?)
}

fn test() -> Result<()> {
    let (name, value) = ON_GPU;
    let kernels = ["test", "--locked", "-p", "neuron-cuda", "--features", "emulated,kernels"];
    sh::run(cargo(&kernels)?.env(name, value))?;
    // All of it: daemons take the GPUs that they find.
    let all = ["test", "--locked", "-p", "neuron", "--features", "cuda", "--no-fail-fast"];
    sh::run(cargo(&all)?.env(name, value))
}
