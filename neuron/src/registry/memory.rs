//! A device's memory, as /health, /discovery and preflight see it.

use super::{Registry, State};
use crate::host;

/// MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceMemory {
    pub(crate) total_mb: u64,
    pub(crate) used_mb: u64,
    /// What another model could have.
    pub(crate) free_mb: u64,
    /// Of its share, what was promised to none.
    pub(crate) left_mb: u64,
}

impl Registry {
    /// With a configured budget: what models have been promised of it. Without: the device's share of what the system
    /// says, less what loaded models will still take when requests come. A device that is not up has nothing free.
    pub(crate) fn memory(&self, device: usize) -> DeviceMemory {
        let memory = self.memory_if_up(device);
        match self.devices[device].is_up() {
            true => memory,
            false => DeviceMemory { free_mb: 0, ..memory },
        }
    }

    fn memory_if_up(&self, device: usize) -> DeviceMemory {
        let (mut promised, mut working) = (0, 0);
        for (_, state) in self.list() {
            match state {
                State::Ready(ready) | State::Unloading(ready) if ready.stats.fault().is_none() => {
                    working += ready.estimate.working_mb() * ready.devices.len() as u64;
                    if ready.devices.contains(&device) {
                        promised += ready.estimate.total_mb();
                    }
                }
                _ => {}
            }
        }
        match (self.config.engine.device_memory_mb, self.devices.len() as u64) {
            (0, 1) => {
                let system = host::memory();
                let free_mb = system.available_mb.saturating_sub(working);
                DeviceMemory {
                    total_mb: system.total_mb,
                    used_mb: system.total_mb.saturating_sub(free_mb),
                    free_mb,
                    left_mb: system.total_mb.saturating_sub(promised),
                }
            }
            (0, count) => {
                let system = host::memory();
                let total_mb = system.total_mb / count;
                let left_mb = total_mb.saturating_sub(promised);
                let free_mb = left_mb.min(system.available_mb.saturating_sub(working));
                DeviceMemory { total_mb, used_mb: total_mb - free_mb, free_mb, left_mb }
            }
            (budget, _) => DeviceMemory {
                total_mb: budget,
                used_mb: promised.min(budget),
                free_mb: budget.saturating_sub(promised),
                left_mb: budget.saturating_sub(promised),
            },
        }
    }

    /// What the host has for all devices together, MiB; `None`: each has a budget of its own.
    pub(super) fn host_left_mb(&self) -> Option<u64> {
        let working = |(_, state)| match state {
            State::Ready(ready) | State::Unloading(ready) if ready.stats.fault().is_none() => {
                ready.estimate.working_mb() * ready.devices.len() as u64
            }
            _ => 0,
        };
        (self.config.engine.device_memory_mb == 0).then(|| {
            let working: u64 = self.list().into_iter().map(working).sum();
            host::memory().available_mb.saturating_sub(working)
        })
    }
}
