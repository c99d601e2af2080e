//! The command line.

mod check;
mod explain;
mod operate;
mod plan;
mod plan_load;
mod policy;
mod serve;
mod status;
mod target;

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
    /// Tell what happened to one request
    Explain(explain::Args),
    /// Load a model now
    Load(operate::LoadArgs),
    /// Say what loading a model would take, and who would leave for it
    PlanLoad(plan_load::Args),
    /// Unload a model
    Unload(operate::UnloadArgs),
    /// Give a neuron nothing new
    Drain(operate::DrainArgs),
    /// Keep a model from being unloaded for another
    Pin(operate::PinArgs),
    /// Validate configuration, catalogue and policies
    Check(ConfigArg),
    /// Say what a reload would change
    Plan(plan::Args),
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
        Command::Explain(args) => explain::run(&args),
        Command::PlanLoad(args) => plan_load::run(&args),
        Command::Load(args) => operate::load(&args),
        Command::Unload(args) => operate::unload(&args),
        Command::Drain(args) => operate::drain(&args),
        Command::Pin(args) => operate::pin(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Check(args) => check::run(&args.config),
        Command::Policy(command) => policy::run(&command),
    }
}
