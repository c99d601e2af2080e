//! The command line.

mod check;
mod exit;
mod explain;
mod init;
mod manual;
mod operate;
mod plan;
mod plan_load;
mod policy;
mod screen;
mod serve;
mod status;
mod target;

pub use exit::{as_json, code};

use clap::{Parser, Subcommand};
use std::path::PathBuf;

const DEFAULT_CONFIG: &str = "/etc/cortex/cortex.toml";

/// One address in front of a fleet of GPU machines that serve language models.
#[derive(Parser)]
#[command(name = "cortex", version, after_help = exit::CODES)]
pub struct Cli {
    /// Answer in JSON, for programs
    #[arg(long, global = true)]
    json: bool,
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
    /// Write a commented configuration, from the neurons at the addresses that are given or asked for
    Init(init::Args),
    /// Print what makes a shell complete cortex's commands
    Completions(manual::Completions),
    /// Write the manual's pages
    Man(manual::Man),
}

#[derive(clap::Args)]
struct ConfigArg {
    /// cortex.toml
    #[arg(long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

impl Cli {
    /// Whether a program reads the answer.
    pub fn is_for_programs(&self) -> bool {
        self.json
    }
}

/// An error as it is told at a terminal.
pub fn as_text(error: &anyhow::Error) -> String {
    screen::shown(&format!("cortex: {error:#}"), &['\n', '\t'])
}

/// Runs the command. An error's text is for the person who called.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let json = cli.json;
    match cli.command {
        Command::Serve(args) => serve::run(&args.config),
        Command::Status(args) => status::run(&args, json),
        Command::Explain(args) => explain::run(&args, json),
        Command::PlanLoad(args) => plan_load::run(&args, json),
        Command::Load(args) => operate::load(&args, json),
        Command::Unload(args) => operate::unload(&args, json),
        Command::Drain(args) => operate::drain(&args, json),
        Command::Pin(args) => operate::pin(&args, json),
        Command::Plan(args) => plan::run(&args, json),
        Command::Check(args) => check::run(&args.config, json),
        Command::Policy(command) => policy::run(&command, json),
        Command::Init(args) => init::run(&args, json),
        Command::Completions(args) => {
            manual::completions(&args);
            Ok(())
        }
        Command::Man(args) => manual::pages(&args),
    }
}

/// What programs read.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
