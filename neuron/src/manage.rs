//! The models on a host's disk, for people: fetched, listed, verified, removed, and looked at before any of it.

mod disk;
mod look;

use std::{io::IsTerminal, time::Duration};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use crate::{config::Config, progress::Progress, sources};

pub use disk::{list, remove, verify};
pub use look::preflight;

/// Between two looks at how far a download is.
const EVERY: Duration = Duration::from_millis(100);

/// Fetches a model into the cache of its source, with a bar on a terminal.
pub async fn pull(config: &Config, id: &str, quant: Option<&str>, json: bool) -> anyhow::Result<()> {
    let progress = Progress::default();
    let bar = ProgressBar::new(0);
    let style = "{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(style).context("the bar")?);
    bar.set_message(id.to_owned());
    let fetch = sources::resolve_watched(config, id, quant, &progress, &|_| Box::pin(async { Ok(()) }));
    tokio::pin!(fetch);
    let fetched = loop {
        tokio::select! {
            fetched = &mut fetch => break fetched,
            () = tokio::time::sleep(EVERY) => {
                let now = progress.of(id);
                // Once for each set of files, what was there before is no speed.
                if bar.length() != Some(now.bytes_total) {
                    bar.set_length(now.bytes_total);
                    bar.reset_eta();
                }
                bar.set_position(now.bytes_done);
            }
        }
    };
    bar.finish_and_clear();
    let resolved = fetched.map_err(|e| anyhow::anyhow!(e.message()))?;
    if json {
        let bytes = sources::size_of(&resolved.path);
        println!("{}", serde_json::json!({"model": id, "path": resolved.path, "bytes": bytes}));
        return Ok(());
    }
    println!("{}", resolved.path.display());
    if std::io::stderr().is_terminal() {
        eprintln!("{id} is here: {}", disk::in_words(sources::size_of(&resolved.path)));
    }
    Ok(())
}
