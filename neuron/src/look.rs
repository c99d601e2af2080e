//! What loading a model would take, without loading it.

use std::{path::PathBuf, sync::Arc};

use neuron_protocol::{LoadError, Preflight};
use tokio::sync::Mutex;

use crate::{
    config::Config,
    preflight::{self, CacheLimits, Checked},
    sources,
};

/// Looks at a model of which no more is fetched for that than its beginnings. `free_mb`: what it could have on each of
/// `devices`, which the figures are of.
pub(crate) async fn look(
    config: &Config,
    id: &str,
    quant: Option<&str>,
    limits: CacheLimits,
    free_mb: u64,
    devices: usize,
) -> Result<Preflight, LoadError> {
    let found = Arc::new(Mutex::new(None));
    let in_situ = sources::in_situ(quant);
    let look = |path: PathBuf| -> sources::LookedAt {
        let (id, found) = (id.to_owned(), Arc::clone(&found));
        Box::pin(async move {
            let looked = tokio::task::spawn_blocking(move || {
                let checked = preflight::check(&id, &path, in_situ, limits.max_context)?;
                let checked = checked.sharded(&id, devices)?;
                let (room, estimate) = preflight::fit(&id, &checked, limits, free_mb)?;
                let Checked { plan, .. } = &checked;
                let file = path.file_name().map(|name| name.to_string_lossy().into_owned());
                Ok(Preflight {
                    model_id: id,
                    file: file.unwrap_or_default(),
                    architecture: plan.name().to_owned(),
                    engine: if plan.is_batched() || plan.encodes() { "batched" } else { "single" }.to_owned(),
                    context: room.context,
                    weights_mb: estimate.weights_mb,
                    text_mb: estimate.text_mb,
                    cache_mb: estimate.cache_mb,
                    activations_mb: estimate.activations_mb,
                    required_mb: estimate.total_mb() + estimate.margin_mb(),
                    free_mb: match limits.gpu {
                        Some(gpu) if !estimate.on_gpu => gpu.host_free_mb,
                        _ => free_mb,
                    },
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
