use super::Candidate;
use crate::decide::replay::{Difference, replay};
use anyhow::Context;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    candidate: Candidate,
    /// What `[policies] record` wrote
    #[arg(long)]
    decisions: PathBuf,
}

pub(super) fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let candidate = args.candidate.load()?;
    let path = args.decisions.display();
    let file = File::open(&args.decisions).with_context(|| format!("cannot read {path}"))?;
    let report = replay(&candidate, BufReader::new(file)).with_context(|| format!("cannot read {path}"))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("{} decisions for a {:?} policy", report.decisions, candidate.kind);
    println!("  {:>8}  the same", report.same);
    println!("  {:>8}  the same first choice, another order behind it", report.same_first);
    println!("  {:>8}  other", report.differ);
    println!("  {:>8}  failed", report.failed);
    if report.others > 0 {
        println!("  {:>8}  of another kind, passed over", report.others);
    }
    if let Some(first) = &report.first_unreadable {
        println!("  {:>8}  lines that are no decision; {first}", report.unreadable);
    }
    if !report.missing_facts.is_empty() {
        let names: Vec<&str> = report.missing_facts.iter().map(String::as_str).collect();
        println!("not recorded, so read as not known: {}", names.join(", "));
    }
    for difference in &report.differences {
        let Difference { line, model, was, would_be } = difference;
        println!("line {line}, {model}: was {was}, would be {would_be}");
    }
    Ok(())
}
