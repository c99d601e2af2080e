//! Whether a model can be loaded here, before anything of its weights is fetched.

use anyhow::bail;
use neuron_protocol::{LoadFailure, Preflight};

use crate::{config::Config, engine::OnGpu, gpus::Gpus, host, look::look, preflight::CacheLimits};

/// Prints what loading the model would take, or why it cannot be loaded; in the second case it is an error.
pub async fn preflight(config: &Config, id: &str, quant: Option<&str>, json: bool) -> anyhow::Result<()> {
    let gpus = Gpus::find(config.engine.devices).map_err(anyhow::Error::msg)?;
    let budget_mb = config.engine.device_memory_mb;
    let on_gpu =
        gpus.most_free_mb().map(|free_mb| if budget_mb == 0 { free_mb } else { free_mb.min(budget_mb) });
    let gpu =
        on_gpu.map(|_| OnGpu { sequences: config.engine.max_sequences, host_free_mb: host::free_mb(0) });
    let limits = CacheLimits { gpu, ..config.engine.cache_limits() };
    let free_mb = on_gpu.unwrap_or_else(|| host::free_mb(budget_mb));
    match look(config, id, quant, limits, free_mb, 1).await {
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
            // Where a GPU computes it the text side is not of what is taken.
            let beside_mb = required_mb.saturating_sub(weights_mb + cache_mb + activations_mb);
            let by_gpu = gpu.is_some() && beside_mb >= 1024;
            let spare_mb = beside_mb.saturating_sub(if by_gpu { 0 } else { text_mb });
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
