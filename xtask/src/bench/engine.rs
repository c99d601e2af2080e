//! `cargo xtask bench engine`: neuron's engine beside llama.cpp, on the same files, cores and threads.
//! The two run in turn, so that whatever else the machine does meets both.

mod chat;
mod daemon;
mod figures;
mod llama_cpp;
mod machine;
mod rates;
mod server;
mod users;
mod weights;

use crate::{model, python, release};
use anyhow::{Result, bail};
use figures::Figures;
use llama_cpp::LlamaCpp;
use std::fs;
use std::path::{Path, PathBuf};
use weights::Weights;

/// Percent of all cores. Past it, threads that wait for each other wait for whoever has their core.
const QUIET: f64 = 5.0;

#[derive(clap::Args)]
pub(super) struct Options {
    /// engine: how often each measurement is repeated
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// engine: only figures whose name has one of these in it, as in q8_0.prefill
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// What both engines are measured with.
struct Bench {
    rounds: u32,
    only: Vec<String>,
    neuron: PathBuf,
    llama: LlamaCpp,
    weights: Vec<Weights>,
}

/// Every figure is written, also where some could not be measured; then that is an error.
pub(super) fn run(options: &Options, file: &Path) -> Result<()> {
    let bench = prepare(options)?;
    let mut figures = Figures::default();
    let mut busy = Vec::new();
    for round in 1..=bench.rounds {
        println!("round {round} of {}", bench.rounds);
        let percent = machine::busy_percent()?;
        if percent > QUIET {
            eprintln!("others use {percent:.0} % of the cores: what is measured now says little");
        }
        busy.push(percent);
        for weights in &bench.weights {
            rates::measure(&bench, weights, &mut figures);
        }
        for weights in &bench.weights {
            users::measure(&bench, weights, &mut figures);
        }
        // A run that is broken off leaves what it has.
        write(&figures, &busy, file)?;
    }
    for weights in &bench.weights {
        daemon::measure(&bench, weights, &mut figures);
    }
    println!("\n{}; llama.cpp {}\n", machine::describe(), llama_cpp::VERSION);
    println!("{}", figures.table());
    write(&figures, &busy, file)?;
    match figures.missing() {
        0 => Ok(()),
        missing => bail!("{missing} measurement(s) failed; {} has the others", file.display()),
    }
}

fn write(figures: &Figures, busy: &[f64], file: &Path) -> Result<()> {
    let report = figures.report(machine::json(busy));
    Ok(fs::write(file, serde_json::to_string_pretty(&report)? + "\n")?)
}

fn prepare(options: &Options) -> Result<Bench> {
    if machine::cores() < 2 {
        bail!("two cores are needed: most figures are of two threads");
    }
    let python = python::environment()?;
    model::ensure(&python)?;
    let llama = llama_cpp::ensure(&python)?;
    let weights = weights::ensure(&llama)?;
    println!("building neuron in release");
    release::build()?;
    let neuron = release::binary("neuron");
    Ok(Bench { rounds: options.rounds, only: options.only.clone(), neuron, llama, weights })
}

impl Bench {
    fn wants(&self, figure: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| figure.contains(part))
    }
}
