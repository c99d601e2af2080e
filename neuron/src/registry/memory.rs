//! A device's memory, as /health, /discovery and preflight see it.

use futures_util::future::join_all;

use super::{Registry, State};
use crate::{device::DeviceHandle, engine::OnGpu, host, preflight::CacheLimits};

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
    /// A device with memory of its own tells what is free of it. Others: with a configured budget, what models have been promised of it. Without: the device's share of what the system
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
        let own = self.devices[device].own_memory();
        for (_, state) in self.list() {
            match state {
                State::Ready(ready) | State::Unloading(ready) if ready.stats.fault().is_none() => {
                    working += ready.estimate.working_mb() * ready.devices.len() as u64;
                    // What the host computes takes nothing of a device with memory of its own.
                    if ready.devices.contains(&device) && ready.estimate.on_gpu == own.is_some() {
                        promised += ready.estimate.total_mb();
                    }
                }
                _ => {}
            }
        }
        let budget = self.config.engine.device_memory_mb;
        if let Some((seen, total)) = own {
            // NVML knows it at this moment; the thread saw it when it last had a control.
            let free = self.gpus.condition(device).free_mb.map_or(seen, |mb| mb << 20);
            let total_mb = if budget == 0 { total >> 20 } else { budget.min(total >> 20) };
            let left_mb = total_mb.saturating_sub(promised);
            let free_mb = (free >> 20).min(if budget == 0 { u64::MAX } else { left_mb });
            return DeviceMemory { total_mb, used_mb: total_mb.saturating_sub(free_mb), free_mb, left_mb };
        }
        match (budget, self.devices.len() as u64) {
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

    /// What the host has for all devices together, MiB; `None`: each has a budget or memory of its own.
    pub(super) fn host_left_mb(&self) -> Option<u64> {
        let apart = self.config.engine.device_memory_mb > 0
            || self.devices.iter().any(|device| device.own_memory().is_some());
        (!apart).then(|| self.host_free_mb())
    }

    /// What a model's cache may take on a device.
    pub(super) fn cache_limits(&self, device: usize) -> CacheLimits {
        let engine = &self.config.engine;
        let gpu = self.devices[device]
            .own_memory()
            .map(|_| OnGpu { sequences: engine.max_sequences, host_free_mb: self.host_free_mb() });
        CacheLimits { gpu, ..engine.cache_limits() }
    }

    /// Has all devices look at what is free of their memory.
    pub(super) async fn measure(&self) {
        join_all(self.devices.iter().filter(|device| device.is_up()).map(DeviceHandle::measure)).await;
    }

    /// What the system has, less what loaded models will still take, MiB.
    fn host_free_mb(&self) -> u64 {
        let working = |(_, state)| match state {
            State::Ready(ready) | State::Unloading(ready) if ready.stats.fault().is_none() => {
                ready.estimate.working_mb() * ready.devices.len() as u64
            }
            _ => 0,
        };
        let working: u64 = self.list().into_iter().map(working).sum();
        host::memory().available_mb.saturating_sub(working)
    }
}
