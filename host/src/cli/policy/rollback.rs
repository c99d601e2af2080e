//! `cortex policy rollback`: what the last upload replaced serves again.

use crate::cli::screen::shown;
use crate::cli::target::Target;
use bytes::Bytes;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::time::Duration;

/// It goes through the gate again.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// The policy's name
    name: String,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let name = utf8_percent_encode(&args.name, NON_ALPHANUMERIC);
    let said =
        args.target.ask(Method::POST, &format!("/admin/policies/{name}/rollback"), Bytes::new(), LIMIT)?;
    if json {
        return crate::cli::print_json(&said);
    }
    let serving = &said["policy"]["serving"];
    let [version, sha] = ["version", "sha256"].map(|key| shown(serving[key].as_str().unwrap_or("-"), &[]));
    println!("{} {version} is live again, sha256 {sha}", args.name);
    Ok(())
}
