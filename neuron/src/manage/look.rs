//! Whether a model can be loaded here, before anything of its weights is fetched.

use anyhow::bail;
use neuron_protocol::{LoadFailure, Preflight};

use crate::{config::Config, host, look::look};

/// Prints what loading the model would take, or why it cannot be loaded; in the second case it is an error.
pub async fn preflight(config: &Config, id: &str, quant: Option<&str>, json: bool) -> anyhow::Result<()> {
    let limits = config.engine.cache_limits();
    match look(config, id, quant, limits, host::free_mb(config.engine.device_memory_mb), 1).await {
        Ok(report) if json => println!("{}", serde_json::to_string_pretty(&report)?),
        Ok(r) => {
            println!("{id} can be loaded here");
            println!("  {:<12} {}", "file", r.file);
            println!("  {:<12} {} ({})", "architecture", r.architecture, r.engine);
            println!("  {:<12} {} tokens", "context", r.context);
            let Preflight { weights_mb, text_mb, cache_mb, activations_mb, required_mb, free_mb, .. } = r;
            println!(
                "  {:<12} {weights_mb} MiB of weights, {text_mb} of text, {cache_mb} of cache, {activations_mb} of activations",
                "memory"
            );
            let spare_mb = required_mb - (weights_mb + text_mb + cache_mb + activations_mb);
            println!(
                "  {:<12} {required_mb} MiB of {free_mb} that are free, {spare_mb} of them to spare",
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
