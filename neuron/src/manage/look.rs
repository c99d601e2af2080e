//! Whether a model can be loaded here, before anything of its weights is fetched.

use std::{path::PathBuf, sync::Arc};

use anyhow::bail;
use neuron_protocol::{LoadError, LoadFailure};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::{
    config::Config,
    engine::MARGIN_MB,
    host,
    preflight::{self, Checked},
    sources,
};

/// What is known of a model without loading it. Memory in MiB.
#[derive(Debug, Clone, Serialize)]
struct Report {
    model_id: String,
    file: String,
    architecture: String,
    /// `batched` or `single`, as in /models.
    engine: &'static str,
    /// Tokens of prompt and answer, as memory allows.
    context: u64,
    weights_mb: u64,
    cache_mb: u64,
    activations_mb: u64,
    /// With the margin that is kept free.
    required_mb: u64,
    free_mb: u64,
}

/// Prints what loading the model would take, or why it cannot be loaded; in the second case it is an error.
pub async fn preflight(config: &Config, id: &str, quant: Option<&str>, json: bool) -> anyhow::Result<()> {
    match report(config, id, quant).await {
        Ok(report) if json => println!("{}", serde_json::to_string_pretty(&report)?),
        Ok(r) => {
            println!("{id} can be loaded here");
            println!("  {:<12} {}", "file", r.file);
            println!("  {:<12} {} ({})", "architecture", r.architecture, r.engine);
            println!("  {:<12} {} tokens", "context", r.context);
            let Report { weights_mb, cache_mb, activations_mb, required_mb, free_mb, .. } = r;
            println!(
                "  {:<12} {weights_mb} MiB of weights, {cache_mb} of cache, {activations_mb} of activations",
                "memory"
            );
            println!(
                "  {:<12} {required_mb} MiB of {free_mb} that are free, {MARGIN_MB} of them to spare",
                "takes"
            );
        }
        Err(error) if json => {
            println!("{}", serde_json::to_string_pretty(&LoadFailure::from(error.clone()))?);
            bail!(error.message());
        }
        Err(error) => bail!(error.message()),
    }
    Ok(())
}

async fn report(config: &Config, id: &str, quant: Option<&str>) -> Result<Report, LoadError> {
    let found = Arc::new(Mutex::new(None));
    let limits = config.engine.cache_limits();
    let total = config.engine.device_memory_mb;
    let look = |path: PathBuf| -> sources::LookedAt {
        let (id, found, in_situ) = (id.to_owned(), Arc::clone(&found), sources::in_situ(quant));
        Box::pin(async move {
            let looked = tokio::task::spawn_blocking(move || {
                let checked = preflight::check(&id, &path, in_situ, limits.max_context)?;
                let free_mb = host::free_mb(total);
                let (room, estimate) = preflight::fit(&id, &checked, limits, free_mb)?;
                let Checked { plan, .. } = &checked;
                Ok(Report {
                    model_id: id,
                    file: path
                        .file_name()
                        .map(|name| name.to_string_lossy().into_owned())
                        .unwrap_or_default(),
                    architecture: plan.name().to_owned(),
                    engine: if plan.is_batched() || plan.encodes() { "batched" } else { "single" },
                    context: room.context,
                    weights_mb: estimate.weights_mb,
                    cache_mb: estimate.cache_mb,
                    activations_mb: estimate.activations_mb,
                    required_mb: estimate.total_mb() + MARGIN_MB,
                    free_mb,
                })
            });
            let looked = looked.await.map_err(|e| sources::failed("the model", &e))?;
            *found.lock().await = Some(looked?);
            Ok(())
        })
    };
    sources::look_at(config, id, quant, &look).await?;
    let report = found.lock().await.take();
    report.ok_or_else(|| sources::failed(id, &"nothing was looked at"))
}
