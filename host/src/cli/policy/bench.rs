use super::Candidate;
use crate::policy::measure;

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    candidate: Candidate,
}

pub(super) fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let candidate = args.candidate.load()?;
    let rows = measure::all(&candidate)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    println!("{} {}, a {:?} policy", candidate.name, candidate.version, candidate.kind);
    println!("  {:<36} {:>10} {:>10}", "", "p50 ns", "p99 ns");
    for row in &rows {
        println!("  {:<36} {:>10} {:>10}", row.what, row.p50_ns, row.p99_ns);
    }
    println!(
        "  {} KiB of memory in {} instances",
        candidate.figures().memory_bytes >> 10,
        candidate.figures().instances
    );
    Ok(())
}
