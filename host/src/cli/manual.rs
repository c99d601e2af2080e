//! Completions and the manual, made of the commands themselves.

use super::Cli;
use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(super) struct Completions {
    shell: Shell,
}

#[derive(clap::Args)]
pub(super) struct Man {
    /// The folder that the pages go to
    dir: PathBuf,
}

/// To standard output.
pub(super) fn completions(args: &Completions) {
    clap_complete::generate(args.shell, &mut Cli::command(), "cortex", &mut std::io::stdout());
}

/// One page a command: cortex.1, cortex-status.1, ….
pub(super) fn pages(args: &Man) -> anyhow::Result<()> {
    let write = || {
        std::fs::create_dir_all(&args.dir)?;
        clap_mangen::generate_to(Cli::command(), &args.dir)
    };
    write().with_context(|| format!("the pages cannot be written to {}", args.dir.display()))
}
