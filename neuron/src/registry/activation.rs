//! Models that the daemon loads by itself at start, as /health reports it.

use std::sync::Arc;

use neuron_protocol::{Activation, ActivationState, FailedActivation, LoadRequest};

use super::{Registry, lock};

impl Registry {
    /// Loads the configured models, one after another, while the daemon already serves.
    pub(crate) fn preload(self: &Arc<Self>) {
        let pending = self.config.preload.clone();
        if pending.is_empty() {
            return;
        }
        let state = ActivationState::PreWarming;
        *lock(&self.activation) = Activation { state, pending: pending.clone(), ..Activation::default() };
        let registry = Arc::clone(self);
        self.tasks.spawn(async move {
            for model_id in pending {
                registry.note(|activation| {
                    activation.pending.retain(|id| *id != model_id);
                    activation.in_progress = Some(model_id.clone());
                });
                let harness = "candle".to_owned();
                let request = LoadRequest { model_id: model_id.clone(), harness, ..LoadRequest::default() };
                let outcome = registry.load(request).await;
                registry.note(|activation| {
                    activation.in_progress = None;
                    match outcome {
                        Ok(_) => activation.completed.push(model_id),
                        Err(e) => activation.failed.push(FailedActivation { model_id, error: e.to_string() }),
                    }
                });
            }
            registry.note(|activation| activation.state = ActivationState::Ready);
        });
    }

    pub(crate) fn activation(&self) -> Activation {
        lock(&self.activation).clone()
    }

    fn note(&self, change: impl FnOnce(&mut Activation)) {
        change(&mut lock(&self.activation));
    }
}
