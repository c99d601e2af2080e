//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand};

use crate::bench::{BenchArgs, SamplingArgs};

/// The daemon on each machine that runs models.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
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
    /// Measure the engine on one file.
    #[command(hide = true)]
    Bench(BenchArgs),
    /// Measure sampling, grammars and vectors.
    #[command(hide = true)]
    BenchSampling(SamplingArgs),
    /// Check the configuration and say what is wrong with it.
    Check {
        #[command(flatten)]
        config: ConfigFile,
    },
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
pub struct ConfigFile {
    /// Configuration file.
    #[arg(long = "config", value_name = "FILE")]
    pub path: PathBuf,
}
