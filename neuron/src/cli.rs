//! The command line.

use std::{net::SocketAddr, path::PathBuf, sync::LazyLock};

use clap::{Parser, Subcommand};

use crate::bench::{BenchArgs, GpuArgs, SamplingArgs};

const EXIT: &str = "Exit status:
  0  it was done
  1  it failed, or was refused
  2  the command line is wrong";

/// The daemon on each machine that runs models.
#[derive(Debug, Parser)]
#[command(version, long_version = long_version(), after_help = EXIT)]
pub struct Cli {
    /// Answer in JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// `--version`: also which GPUs this build is for, since there is a package for each.
fn long_version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let kernels = match neuron_cuda::compiled_for() {
            Some(all) => format!("kernels for GPUs of compute capability {}", all.replace(',', ", ")),
            None => "no kernels for GPUs".to_owned(),
        };
        format!("{}\n{kernels}", env!("CARGO_PKG_VERSION"))
    });
    &TEXT
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print what makes a shell complete neuron's commands.
    Completions {
        /// bash, zsh, fish, elvish or powershell.
        shell: clap_complete::Shell,
    },
    /// Write the manual's pages.
    Man {
        /// The folder that they go to.
        dir: PathBuf,
    },
    /// Serve the HTTP API until SIGTERM or SIGINT.
    Serve {
        #[command(flatten)]
        config: ConfigFile,
        /// Address to listen on, instead of the configuration's; port 0 takes a free one.
        #[arg(long, value_name = "ADDR")]
        listen: Option<SocketAddr>,
    },
    /// Talk to a model in the terminal.
    Run {
        /// Its id: `org/name`, as it would be loaded.
        model: String,
        /// Configuration file; without one, all is as if it were empty.
        #[arg(long = "config", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Fetch a model, and go on with one whose fetching was broken off.
    Pull {
        #[command(flatten)]
        model: OneModel,
    },
    /// Say what loading a model would take, or why it cannot be loaded; its weights are not fetched for that.
    Preflight {
        #[command(flatten)]
        model: OneModel,
    },
    /// List the models that are here.
    List {
        /// Configuration file; without one, all is as if it were empty.
        #[arg(long = "config", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Remove a model with all its revisions.
    Rm {
        /// Its id.
        model: String,
        /// Configuration file; without one, all is as if it were empty.
        #[arg(long = "config", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Read every file of a model, or of all, and hold it against its hash.
    Verify {
        /// Its id; without one, all that are here.
        model: Option<String>,
        /// Configuration file; without one, all is as if it were empty.
        #[arg(long = "config", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Give out a folder of models over the hub's own API.
    Registry {
        /// Models as `org/name/file`, or a hub's cache.
        dir: PathBuf,
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:13132")]
        listen: SocketAddr,
        /// Environment variable with the token that everyone has to send.
        #[arg(long, value_name = "VARIABLE")]
        token_env: Option<String>,
        /// Give everything to everyone, on any network.
        #[arg(long)]
        insecure_open: bool,
    },
    /// Measure the engine on one file.
    #[command(hide = true)]
    Bench(BenchArgs),
    /// Measure a GPU: what it copies and multiplies at, and what of that a model of 8 billion parameters gets.
    #[command(hide = true)]
    BenchGpu(GpuArgs),
    /// Measure sampling, grammars and vectors.
    #[command(hide = true)]
    BenchSampling(SamplingArgs),
    /// Check the configuration and say what is wrong with it.
    Check {
        #[command(flatten)]
        config: ConfigFile,
    },
}

/// A model, and where the configuration is.
#[derive(Debug, clap::Args)]
pub struct OneModel {
    /// Its id: `[source:]org/name[@revision]`.
    #[arg(value_name = "MODEL")]
    pub id: String,
    /// Which of its quants, such as `Q4_K_M`.
    #[arg(long)]
    pub quant: Option<String>,
    /// Configuration file; without one, all is as if it were empty.
    #[arg(long = "config", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
pub struct ConfigFile {
    /// Configuration file.
    #[arg(long = "config", value_name = "FILE")]
    pub path: PathBuf,
}
