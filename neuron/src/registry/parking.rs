//! Models whose weights wait in the host's memory. Both ways go on when the client that asked leaves.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use neuron_protocol::{LoadError, LoadRequest, UnloadMode, UnloadRequest};

use super::{LoadFailure, Ready, Registry, State, UnloadFailure, devices::on_device};

impl Registry {
    /// Whether models can be parked here.
    pub(crate) fn parks(&self) -> bool {
        let has_own = self.devices.iter().any(|device| device.own_memory().is_some());
        has_own && self.config.engine.park_mb() > 0
    }

    /// `Ok(true)` once the model's last request has ended and its weights are in the host's memory; `Ok(false)`: it is not
    /// loaded. Those that were parked the longest ago make room for it. An error leaves it loaded.
    pub(crate) async fn park(self: &Arc<Self>, request: &UnloadRequest) -> Result<bool, UnloadFailure> {
        let Some((_, entry)) = self.find(&request.model_id) else { return Ok(false) };
        let ready = loop {
            match entry.settled().await {
                State::Parked(_) => return Ok(true),
                State::Ready(ready) if ready.stats.fault().is_none() => {
                    self.could_be_parked(&ready)?;
                    if entry.start_unloading(request)? {
                        self.changed.send_replace(());
                        break ready;
                    }
                }
                _ => return Ok(false),
            }
        };
        let registry = Arc::clone(self);
        let now = request.mode == Some(UnloadMode::Now);
        let parking = self.tasks.spawn(async move {
            if now {
                // One that is lost has ended it already.
                registry.device(&ready).cut(ready.key).await.ok();
            }
            let parked = registry.park_on(&ready).await;
            let state = match &parked {
                Ok(()) => State::Parked(Arc::clone(&ready)),
                Err(_) => State::Ready(Arc::clone(&ready)),
            };
            registry.set(&entry, state);
            if parked.is_ok() {
                tracing::info!(model = %ready.id, "the model is parked");
            }
            parked
        });
        parking.await.map_err(|e| LoadFailure::Engine(e.to_string()))??;
        Ok(true)
    }

    /// Errors where it never can be: found out before anybody's request is refused or ended for it.
    fn could_be_parked(&self, ready: &Ready) -> Result<(), LoadFailure> {
        let why = match ready {
            _ if !self.parks() => "nothing is parked here",
            Ready { estimate, .. } if !estimate.on_gpu => "the host computes it",
            Ready { devices, .. } if devices.len() > 1 => "it is in parts",
            _ => return Ok(()),
        };
        Err(LoadFailure::Request(format!("{} cannot be parked: {why}", ready.id)))
    }

    async fn park_on(self: &Arc<Self>, ready: &Ready) -> Result<(), LoadFailure> {
        let failed = |why: String| LoadFailure::Request(format!("{} cannot be parked: {why}", ready.id));
        loop {
            if self.device(ready).park(ready.key).await.map_err(|e| failed(e.to_string()))? {
                return Ok(());
            }
            // The one that was used the longest ago makes room.
            let others = self.list().into_iter().filter_map(|(_, state)| match state {
                State::Parked(parked) if parked.devices == ready.devices => Some(parked),
                _ => None,
            });
            let idle = |ready: &Ready| ready.stats.idle().unwrap_or_else(|| ready.since.elapsed());
            let oldest = others.max_by_key(|parked| idle(parked));
            let made = match oldest {
                Some(oldest) => self.drop_parked(&oldest.id).await,
                None => false,
            };
            if !made {
                return Err(failed("there is no room for it in engine.park_mb".to_owned()));
            }
        }
    }

    /// A parked model goes; `false`: it is not there, or awake by now. Only in a task: it must come to its end.
    async fn drop_parked(&self, model_id: &str) -> bool {
        let Some((canonical, entry)) = self.find(model_id) else { return false };
        let State::Parked(ready) = entry.state() else { return false };
        if !entry.start_dropping() {
            return false;
        }
        // Where its device is lost there is nothing of it any more.
        self.unload_from(&ready).await.ok();
        self.forget(&canonical, &entry);
        self.set(&entry, State::Gone);
        tracing::info!(model = %ready.id, "the parked model is unloaded");
        true
    }

    /// `Ok(true)` once a parked model serves again; `Ok(false)`: it is not there. An error leaves it parked.
    pub(crate) async fn wake(self: &Arc<Self>, model_id: &str) -> Result<bool, LoadFailure> {
        loop {
            let Some((canonical, entry)) = self.find(model_id) else { return Ok(false) };
            let ready = match entry.settled().await {
                State::Ready(ready) if ready.stats.fault().is_none() => return Ok(true),
                State::Parked(ready) if ready.stats.fault().is_none() => ready,
                _ => return Ok(false),
            };
            let registry = Arc::clone(self);
            let waking = self.tasks.spawn(async move {
                // What is free now is nobody else's then.
                let _turn = registry.load_turn.lock().await;
                if !entry.start_waking() {
                    return Ok(());
                }
                registry.changed.send_replace(());
                let woken = registry.wake_on(&ready).await;
                match &woken {
                    Ok(()) => registry.set(&entry, State::Ready(Arc::new(registry.anew(&ready)))),
                    // Its device is lost: there is nothing to wake.
                    Err(_) if ready.stats.fault().is_some() => {
                        registry.forget(&canonical, &entry);
                        registry.set(&entry, State::Gone);
                    }
                    Err(_) => registry.set(&entry, State::Parked(Arc::clone(&ready))),
                }
                if woken.is_ok() {
                    tracing::info!(model = %ready.id, "the model is awake");
                }
                woken
            });
            waking.await.map_err(|e| LoadFailure::Engine(e.to_string()))??;
        }
    }

    /// As [`Self::drop_parked`], to its end though the client that asked leaves.
    async fn drop_whoever_asks(self: &Arc<Self>, model_id: &str) {
        let (registry, id) = (Arc::clone(self), model_id.to_owned());
        self.tasks.spawn(async move { registry.drop_parked(&id).await }).await.ok();
    }

    /// For a load: where a parked model is to go to another device, or has no room on its own and has on another, it goes, to
    /// be loaded anew.
    pub(super) async fn wake_or_drop(
        self: &Arc<Self>,
        request: &LoadRequest,
        ready: &Ready,
    ) -> Result<(), LoadFailure> {
        let named = request.devices.as_deref().unwrap_or_default();
        let elsewhere = |device: &u32| !ready.devices.contains(&(*device as usize));
        if !named.is_empty() && named.iter().all(elsewhere) {
            self.drop_whoever_asks(&ready.id).await;
            return Ok(());
        }
        let Err(failure) = self.wake(&request.model_id).await else { return Ok(()) };
        let full = matches!(&failure, LoadFailure::Preflight(error) if matches!(**error, LoadError::InsufficientVram { .. }));
        let wanted_mb = ready.estimate.total_mb() + ready.estimate.margin_mb();
        let has_room =
            |(devices, free_mb): (Vec<usize>, u64)| devices != ready.devices && free_mb >= wanted_mb;
        if full && self.place(request).is_ok_and(has_room) {
            self.drop_whoever_asks(&ready.id).await;
            return Ok(());
        }
        Err(failure)
    }

    /// A model that is back: whoever decided on what it was before it was parked meant another.
    fn anew(&self, ready: &Ready) -> Ready {
        ready.stats.forget_use();
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        Ready { generation, since: Instant::now(), lease: None, ..ready.clone() }
    }

    async fn wake_on(&self, ready: &Ready) -> Result<(), LoadFailure> {
        let index = ready.devices[0];
        self.devices[index].measure().await;
        let required_mb = ready.estimate.total_mb() + ready.estimate.margin_mb();
        let free_mb = self.memory(index).free_mb;
        if required_mb > free_mb {
            let model_id = ready.id.clone();
            let refusal = LoadError::InsufficientVram { model_id, required_mb, free_mb, device: 0 };
            return Err(on_device(refusal, index).into());
        }
        self.device(ready).wake(ready.key).await.map_err(|e| LoadFailure::Engine(e.to_string()))
    }
}
