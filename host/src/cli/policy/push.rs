use crate::cli::screen::shown;
use crate::cli::target::Target;
use anyhow::Context;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::path::PathBuf;
use std::time::Duration;

/// Compiling takes a moment, and a loaded machine more.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// A component, *.wasm
    file: PathBuf,
    /// The policy's name; without it the file's
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let stem = args.file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = args.name.clone().or(stem).unwrap_or_default();
    let bytes = std::fs::read(&args.file);
    let bytes = bytes.with_context(|| format!("{} cannot be read", args.file.display()))?;
    let path = format!("/admin/policies/{}", utf8_percent_encode(&name, NON_ALPHANUMERIC));
    let said = args.target.ask(Method::PUT, &path, bytes.into(), LIMIT)?;
    if json {
        return crate::cli::print_json(&said);
    }
    println!("{name} is live, sha256 {}", shown(said["sha256"].as_str().unwrap_or("-"), &[]));
    Ok(())
}
