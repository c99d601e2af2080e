//! The command line.

mod check;
mod policy;
mod serve;
mod status;

use clap::{Parser, Subcommand};
use std::path::PathBuf;

const DEFAULT_CONFIG: &str = "/etc/cortex/cortex.toml";

/// One address in front of a fleet of GPU machines that serve language models.
#[derive(Parser)]
#[command(name = "cortex", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    Serve(ConfigArg),
    /// Show nodes, models, loads and policies of a running gateway
    Status(status::Args),
    /// Validate configuration, catalogue and policies
    Check(ConfigArg),
    /// Work on policies
    #[command(subcommand)]
    Policy(policy::Command),
}

#[derive(clap::Args)]
struct ConfigArg {
    /// cortex.toml
    #[arg(long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

/// Runs the command. An error's text is for the person who called.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve(args) => serve::run(&args.config),
        Command::Status(args) => status::run(&args),
        Command::Check(args) => check::run(&args.config),
        Command::Policy(command) => policy::run(&command),
    }
}
