//! Models whose weights wait in the host's memory. Both ways go on when the client that asked leaves.

use std::sync::Arc;

use neuron_protocol::{LoadError, UnloadMode, UnloadRequest};

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

    async fn park_on(self: &Arc<Self>, ready: &Ready) -> Result<(), LoadFailure> {
        loop {
            let failed = |why: String| LoadFailure::Request(format!("{} cannot be parked: {why}", ready.id));
            if self.device(ready).park(ready.key).await.map_err(|e| failed(e.to_string()))? {
                return Ok(());
            }
            let failure = failed("there is no room for it in engine.park_mb".to_owned());
            let others = self.list().into_iter().filter_map(|(_, state)| match state {
                State::Parked(parked) if parked.devices == ready.devices => Some(parked),
                _ => None,
            });
            // The one that was used the longest ago.
            let Some(oldest) = others.max_by_key(|parked| parked.stats.idle()) else { return Err(failure) };
            let unload = UnloadRequest { model_id: oldest.id.clone(), ..UnloadRequest::default() };
            match Box::pin(self.unload(&unload)).await {
                Ok(true) => {}
                _ => return Err(failure),
            }
        }
    }

    /// `Ok(true)` once a parked model serves again; `Ok(false)`: it is not there. An error leaves it parked.
    pub(crate) async fn wake(self: &Arc<Self>, model_id: &str) -> Result<bool, LoadFailure> {
        loop {
            let Some((_, entry)) = self.find(model_id) else { return Ok(false) };
            let ready = match entry.settled().await {
                State::Ready(ready) if ready.stats.fault().is_none() => return Ok(true),
                State::Parked(ready) => ready,
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
                let state = match &woken {
                    Ok(()) => State::Ready(Arc::clone(&ready)),
                    Err(_) => State::Parked(Arc::clone(&ready)),
                };
                registry.set(&entry, state);
                if woken.is_ok() {
                    tracing::info!(model = %ready.id, "the model is awake");
                }
                woken
            });
            waking.await.map_err(|e| LoadFailure::Engine(e.to_string()))??;
        }
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
