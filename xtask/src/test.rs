//! `cargo xtask test`: everything that a change must pass.

use crate::{demo, new_policy, policies, samples, setup, sh, tidy};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also what takes longer or wants more than Rust and Python: samples in C and Rust, new policies, the demo
    #[arg(long)]
    all: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    step("setup", || setup::run(&setup::Args { all: args.all }))?;
    step("format", || sh::run(&mut sh::cargo(&["fmt", "--check", "--all"])))?;
    step("tidy", tidy::run)?;
    let lint = ["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
    step("lint", || sh::run(&mut sh::cargo(&lint)))?;
    step("lint policies", policies::lint)?;
    let mut count = Count::default();
    step("test", || tests(&mut count))?;
    if args.all {
        step("samples", samples::check)?;
        step("new policies", new_policy::check)?;
        step("demo", || demo::run(&demo::Args::once()))?;
    }
    println!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.ignored);
    Ok(())
}

#[derive(Default)]
struct Count {
    passed: u64,
    failed: u64,
    ignored: u64,
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    work().with_context(|| format!("step {name:?}"))?;
    println!("== {name}: {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Shows the tests' output and adds up what each test binary counted.
fn tests(count: &mut Count) -> Result<()> {
    let mut command = sh::cargo(&["test", "--locked", "--workspace", "--no-fail-fast"]);
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let stdout = child.stdout.take().context("cargo test has no output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        if line.starts_with("test result:") {
            let field = |name: &str| {
                let words: Vec<&str> = line.split([' ', ';']).collect();
                let at = words.iter().position(|w| *w == name);
                at.and_then(|at| words[at - 1].parse().ok()).unwrap_or(0)
            };
            count.passed += field("passed");
            count.failed += field("failed");
            count.ignored += field("ignored");
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{} test(s) failed, {} passed", count.failed, count.passed);
    }
    if count.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}
