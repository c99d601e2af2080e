use super::screen::shown;
use crate::config::Config;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// The cortex.toml that is to be put in force
    #[arg(long)]
    config: PathBuf,
    /// The one in force
    #[arg(long, default_value = super::DEFAULT_CONFIG)]
    current: PathBuf,
    /// The admin address of the running gateway, http://HOST:PORT, to say what is affected there
    #[arg(long)]
    url: Option<String>,
}

/// What a reload would change, a line each; nothing is touched.
pub(super) fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let (old, new) = (Config::load(&args.current)?, Config::load(&args.config)?);
    let status = running(args);
    let lines = old.differences(&new, &status);
    if json {
        return super::print_json(&serde_json::json!({"changes": lines}));
    }
    if lines.is_empty() {
        println!("nothing changes");
    }
    lines.iter().for_each(|line| println!("{}", shown(line, &[])));
    Ok(())
}

/// `Null` where no gateway answers: the files say enough.
fn running(args: &Args) -> Value {
    let target = super::target::Target::new(args.current.clone(), args.url.clone());
    target.get("/admin/status", Duration::from_secs(2)).unwrap_or_default()
}
