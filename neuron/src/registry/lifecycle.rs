//! Loading and unloading. Both go on when the client that asked leaves: they run in tasks of the
//! registry's own, and whoever asks waits for them.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use neuron_kernels::quant::Target;
use neuron_protocol::{
    LoadError, LoadPhase, LoadRequest, Preflight, UnloadMode, UnloadRequest, model_id::ModelId,
};

use super::{Entry, LoadFailure, Ready, Registry, State, UnloadFailure, devices::on_device};
use crate::{
    device::{DeviceHandle, Stats},
    look::look,
    memory,
    preflight::{self, Checked},
    sources,
};

impl Registry {
    /// Loads a model, or joins the load that is under way. Resident once it returns `true`; with `wait: false`
    /// it returns `false` where the load has begun.
    pub(crate) async fn load(self: &Arc<Self>, request: LoadRequest) -> Result<bool, LoadFailure> {
        check_request(&request)?;
        let canonical = self.canonical(&request.model_id)?;
        let is_there = matches!(self.find(&request.model_id), Some((_, entry)) if matches!(entry.state(), State::Ready(_) | State::Parked(_)));
        self.check_shards(&request, is_there).await?;
        loop {
            let entry = self.entry_or_load(&canonical, &request);
            if request.wait == Some(false) && matches!(entry.state(), State::Loading) {
                return Ok(false);
            }
            match entry.settled().await {
                State::Ready(ready) if ready.stats.fault().is_none() => {
                    return check_quant(&ready, request.quant.as_deref()).map(|()| true);
                }
                State::Failed(failure) => return Err(failure),
                State::Parked(ready) if ready.stats.fault().is_none() => {
                    check_quant(&ready, request.quant.as_deref())?;
                    if request.wait == Some(false) {
                        let (registry, id) = (Arc::clone(self), request.model_id.clone());
                        self.tasks.spawn(async move {
                            if let Err(failure) = registry.wake(&id).await {
                                registry.note_failure(&id, &failure);
                            }
                        });
                        return Ok(false);
                    }
                    self.wake_or_drop(&request, &ready).await?;
                }
                // Broken or gone: out of the way, then anew.
                State::Ready(_) | State::Parked(_) => self.forget(&canonical, &entry),
                State::Loading | State::Unloading(_) | State::Gone => {}
            }
        }
    }

    /// What a load would take, with what is free now; nothing is loaded.
    pub(crate) async fn preflight(&self, request: &LoadRequest) -> Result<Preflight, LoadFailure> {
        check_request(request)?;
        self.canonical(&request.model_id)?;
        self.check_shards(request, false).await?;
        self.measure().await;
        let (devices, free_mb) = self.place(request)?;
        let (quant, limits) = (request.quant.as_deref(), self.cache_limits(devices[0]));
        let looked = look(&self.config, &request.model_id, quant, limits, free_mb, devices.len()).await;
        // Header and tokenizer were read for it, and nobody needs them now.
        tokio::task::spawn_blocking(memory::give_back);
        Ok(looked.map_err(|e| on_device(e, devices[0]))?)
    }

    /// A model in parts on several devices has to be in safetensors.
    /// `is_there`: it needs no place.
    async fn check_shards(&self, request: &LoadRequest, is_there: bool) -> Result<(), LoadFailure> {
        let can_be_placed = || match is_there {
            true => self.candidates(request).map(|_| ()),
            false => self.place(request).map(|_| ()),
        };
        let Some(tp_size) = request.tensor_parallel.filter(|size| *size > 1) else { return can_be_placed() };
        let cached = sources::resolve_cached(&self.config, &request.model_id)?;
        let is_folder = cached.is_some_and(|resolved| resolved.path.is_dir());
        let gguf_quants = match is_folder {
            true => Vec::new(),
            false => sources::quants(&self.config, &request.model_id).await?,
        };
        if gguf_quants.is_empty() || sources::in_situ(request.quant.as_deref()).is_some() {
            return can_be_placed();
        }
        Err(LoadFailure::from(LoadError::TpRequiresSafetensors {
            gguf_quants,
            model_id: request.model_id.clone(),
            tp_size,
            suggestion: "load it without tensor_parallel".to_owned(),
        }))
    }

    fn entry_or_load(self: &Arc<Self>, canonical: &str, request: &LoadRequest) -> Arc<Entry> {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(canonical) {
            return Arc::clone(entry);
        }
        let repo = ModelId::parse(&request.model_id).map_or("", |id| id.repo).to_owned();
        let entry = Arc::new(Entry::new(request.model_id.clone(), repo));
        entries.insert(canonical.to_owned(), Arc::clone(&entry));
        self.changed.send_replace(());
        let (registry, canonical, request) = (Arc::clone(self), canonical.to_owned(), request.clone());
        let job_entry = Arc::clone(&entry);
        self.tasks.spawn(async move {
            if let Err(failure) = registry.load_now(&request, &job_entry).await {
                tracing::warn!(model = %request.model_id, %failure, "the model could not be loaded");
                registry.note_failure(&request.model_id, &failure);
                registry.forget(&canonical, &job_entry);
                registry.set(&job_entry, State::Failed(failure));
            }
        });
        entry
    }

    /// Leaves the entry ready, or says why not.
    async fn load_now(&self, request: &LoadRequest, entry: &Entry) -> Result<(), LoadFailure> {
        let started = Instant::now();
        let id = request.model_id.clone();
        let quant = request.quant.as_deref();
        let in_situ = sources::in_situ(quant);
        let max_context = self.config.engine.max_context;
        // Before the weights are fetched: what will be refused then is refused now.
        self.measure().await;
        let (devices, free_mb) = self.place(request)?;
        let limits = self.cache_limits(devices[0]);
        let (first, size_of_group) = (devices[0], devices.len());
        let look = |path: PathBuf| -> sources::LookedAt {
            let id = id.clone();
            let looked = tokio::task::spawn_blocking(move || {
                let checked = preflight::check(&id, &path, in_situ, max_context)?;
                let checked = checked.sharded(&id, size_of_group)?;
                preflight::fit(&id, &checked, limits, free_mb).map(|_| ()).map_err(|e| on_device(e, first))
            });
            // What fails here otherwise fails again when the file is there.
            Box::pin(async { looked.await.unwrap_or(Ok(())) })
        };
        let resolved = sources::resolve_watched(&self.config, &id, quant, &entry.progress, &look).await?;
        entry.progress.enter(LoadPhase::Checking, 0);
        let file = resolved.file();
        let size = sources::size_of(&resolved.path);
        let (checked_id, path) = (id.clone(), resolved.path.clone());
        let check = move || preflight::check(&checked_id, &path, in_situ, max_context);
        let checked = tokio::task::spawn_blocking(check);
        let checked = checked.await.map_err(|e| LoadFailure::Engine(e.to_string()))??;
        let checked = checked.sharded(&id, size_of_group)?;

        entry.progress.enter(LoadPhase::Waiting, 0);
        let _turn = self.load_turn.lock().await;
        // Much may have happened since.
        self.measure().await;
        let (devices, free_mb) = self.place(request)?;
        let limits = self.cache_limits(devices[0]);
        let fit = preflight::fit(&id, &checked, limits, free_mb);
        let (room, estimate) = fit.map_err(|e| on_device(e, devices[0]))?;
        let context = room.context;
        let Checked { weights, plan, text, .. } = checked;
        let (batched, encodes) = (plan.is_batched(), plan.encodes());
        let (key, stats) = (DeviceHandle::new_key(), Arc::new(Stats::default()));
        entry.progress.enter_counted(LoadPhase::Reading, size, weights.counter());
        let reading = Instant::now();
        self.load_on(&devices, key, (weights, plan, room), &stats).await?;
        let seconds = started.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let mb_per_sec = (size as f64 / 1e6 / reading.elapsed().as_secs_f64().max(1e-6)).round();
        tracing::info!(model = %id, seconds, mb_per_sec, context, memory_mb = estimate.total_mb(), "the model is loaded");
        let end = text.tokenizer.end_ids().into();
        // While the turn is held: whoever has it next must see this model's memory as taken.
        let (generation, since) = (self.generations.fetch_add(1, Ordering::Relaxed) + 1, Instant::now());
        let lease = request.lease.clone();
        let ready = Ready {
            id,
            in_situ: in_situ.filter(|_| !sources::is_gguf(&file)),
            file,
            key,
            devices,
            text,
            context,
            batched,
            encodes,
            estimate,
            stats,
            generation,
            since,
            lease,
            end,
        };
        self.set(entry, State::Ready(Arc::new(ready)));
        Ok(())
    }

    /// `Ok(true)` once the model's last request has ended and its memory is back; `Ok(false)`: it is not loaded.
    pub(crate) async fn unload(self: &Arc<Self>, request: &UnloadRequest) -> Result<bool, UnloadFailure> {
        let Some((canonical, entry)) = self.find(&request.model_id) else { return Ok(false) };
        let ready = loop {
            let (State::Ready(ready) | State::Parked(ready)) = entry.settled().await else {
                return Ok(false);
            };
            if entry.start_unloading(request)? {
                self.changed.send_replace(());
                break ready;
            }
        };
        let registry = Arc::clone(self);
        let now = request.mode == Some(UnloadMode::Now);
        let unloading = self.tasks.spawn(async move {
            if now {
                // One that is lost has ended it already.
                registry.device(&ready).cut(ready.key).await.ok();
            }
            let unloaded = registry.unload_from(&ready).await;
            registry.forget(&canonical, &entry);
            registry.set(&entry, State::Gone);
            tracing::info!(model = %ready.id, "the model is unloaded");
            unloaded
        });
        let unloaded = unloading.await.map_err(|e| LoadFailure::Engine(e.to_string()))?;
        unloaded.map_err(|e| LoadFailure::Engine(e.to_string()))?;
        Ok(true)
    }
}

/// What is resident has to be what was asked for.
fn check_quant(ready: &Ready, wanted: Option<&str>) -> Result<(), LoadFailure> {
    let is_it = |quant: &str| match ready.in_situ {
        Some(target) => sources::in_situ(Some(quant)) == Some(target),
        None => sources::is_quant(&ready.file, quant),
    };
    let other = wanted.filter(|quant| !quant.is_empty() && !is_it(quant));
    other.map_or(Ok(()), |wanted| {
        let (id, in_situ) = (&ready.id, ready.in_situ.map(Target::name));
        let have = in_situ.unwrap_or_else(|| sources::quant_of(&ready.file));
        let text = format!("{id} is loaded as {have}; unload it before it is loaded as {wanted}");
        Err(LoadFailure::Request(text))
    })
}

fn check_request(request: &LoadRequest) -> Result<(), LoadFailure> {
    if request.harness != "candle" {
        let text = format!("there is no harness {:?} here; the only one is \"candle\"", request.harness);
        return Err(LoadFailure::Request(text));
    }
    Ok(())
}
