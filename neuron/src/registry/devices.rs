//! The devices, which models go to which, and what becomes of one that is lost.

use std::{sync::Arc, time::Duration};

use neuron_protocol::{LoadError, LoadRequest};

use super::{LoadFailure, Ready, Registry, State};
use crate::device::{DeviceHandle, DeviceState};

/// Before each try to set a lost device up again.
const PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(25)];

impl Registry {
    /// Of the model that is loaded there.
    pub(crate) fn device(&self, ready: &Ready) -> &DeviceHandle {
        &self.devices[ready.device]
    }

    /// Sets devices up again that are lost, for as long as the daemon runs.
    pub(crate) fn watch_devices(self: &Arc<Self>) {
        for index in 0..self.devices.len() {
            let registry = Arc::clone(self);
            self.tasks.spawn(async move {
                let mut state = registry.devices[index].watch();
                let mut stopped = registry.stopped.subscribe();
                loop {
                    let lost = state.wait_for(|state| matches!(state, DeviceState::Poisoned(_)));
                    tokio::select! {
                        lost = lost => if lost.is_err() { return },
                        _ = stopped.wait_for(|stopped| *stopped) => return,
                    }
                    registry.changed.send_replace(());
                    tokio::select! {
                        () = registry.devices[index].recover(&PAUSES) => {}
                        _ = stopped.wait_for(|stopped| *stopped) => return,
                    }
                    registry.forget_lost(index);
                    registry.changed.send_replace(());
                }
            });
        }
    }

    /// What was on a device that was lost is no more: whoever wants it loads it.
    fn forget_lost(&self, device: usize) {
        let is_lost = |state: &State| matches!(state, State::Ready(ready) if ready.device == device && ready.stats.fault().is_some());
        self.entries().retain(|_, entry| !is_lost(&entry.state()));
    }

    /// Returns once a device is gone for good.
    pub(crate) async fn until_gone(&self) {
        let gone = self.devices.iter().map(|device| {
            let mut state = device.watch();
            Box::pin(async move {
                // An error means that the daemon ends.
                state.wait_for(|state| matches!(state, DeviceState::Gone(_))).await.is_ok()
            })
        });
        futures_util::future::select_all(gone).await;
    }

    /// Where a model is to go, and what is free there, MiB: where the request says, or where most is free.
    pub(crate) fn place(&self, request: &LoadRequest) -> Result<(usize, u64), LoadFailure> {
        let count = self.devices.len();
        let all: Vec<usize> = match request.devices.as_deref() {
            None | Some([]) => (0..count).collect(),
            Some(named) => {
                let named: Vec<usize> = named.iter().map(|device| *device as usize).collect();
                if let Some(missing) = named.iter().find(|device| **device >= count) {
                    let there = if count == 1 {
                        "the only one is 0".to_owned()
                    } else {
                        format!("there are 0 to {}", count - 1)
                    };
                    return Err(LoadFailure::Request(format!("there is no device {missing} here; {there}")));
                }
                named
            }
        };
        let up = all.iter().copied().filter(|device| self.devices[*device].is_up());
        // Of equal ones the first.
        let best = up
            .map(|device| (device, self.memory(device).free_mb))
            .reduce(|best, other| if other.1 > best.1 { other } else { best });
        best.ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|device| self.devices[*device].name()).collect();
            LoadFailure::Device(format!("{} was lost and is not up again yet", names.join(", ")))
        })
    }
}

/// The refusal names the device that it is about.
pub(super) fn on_device(error: LoadError, index: usize) -> LoadError {
    match error {
        LoadError::InsufficientVram { model_id, required_mb, free_mb, .. } => LoadError::InsufficientVram {
            model_id,
            required_mb,
            free_mb,
            device: u32::try_from(index).unwrap_or(u32::MAX),
        },
        other => other,
    }
}
