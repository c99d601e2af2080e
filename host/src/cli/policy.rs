//! `cortex policy …`: what authors need before their policy meets a request.

mod bench;
mod check;
mod push;
mod replay;
mod rollback;

use crate::policy::{Generation, PolicyEngine, check_file};
use anyhow::bail;
use clap::Subcommand;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Put a component through every stage of the gate
    Check(Candidate),
    /// Measure what a component's calls take on this machine
    Bench(bench::Args),
    /// Make recorded decisions again with a component, and show what would be decided otherwise
    Replay(replay::Args),
    /// Put a component into a running gateway's directory, if it passes the gate
    Push(push::Args),
    /// Have what the last upload replaced serve again; once more undoes it
    Rollback(rollback::Args),
}

#[derive(clap::Args)]
pub(super) struct Candidate {
    /// A component, *.wasm
    file: PathBuf,
    /// Settings as cortex.toml would give them, in JSON
    #[arg(long, default_value = "{}")]
    settings: String,
}

pub(super) fn run(command: &Command, json: bool) -> anyhow::Result<()> {
    match command {
        Command::Check(candidate) => check::run(candidate, json),
        Command::Bench(args) => bench::run(args, json),
        Command::Replay(args) => replay::run(args, json),
        Command::Push(args) => push::run(args, json),
        Command::Rollback(args) => rollback::run(args, json),
    }
}

impl Candidate {
    fn engine() -> anyhow::Result<Arc<PolicyEngine>> {
        Ok(Arc::new(PolicyEngine::new(None, 32 << 20)?))
    }

    /// Through the gate; an error names the stage.
    fn load(&self) -> anyhow::Result<Arc<Generation>> {
        let (report, generation) = check_file(&Self::engine()?, &self.file, &self.settings);
        match (generation, report.refused) {
            (Some(generation), _) => Ok(generation),
            (None, Some((stage, error))) => bail!("refused at {stage}: {error}"),
            (None, None) => bail!("refused"),
        }
    }
}
