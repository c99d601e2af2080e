//! The CPU device's memory, as /health, /discovery and preflight see it.

use super::{Registry, State};
use crate::host;

/// MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceMemory {
    pub(crate) total_mb: u64,
    pub(crate) used_mb: u64,
    /// What another model could have.
    pub(crate) free_mb: u64,
}

impl Registry {
    /// With a configured budget: what models have been promised of it. Without: what the system says,
    /// less what loaded models will still take when requests come.
    pub(crate) fn memory(&self) -> DeviceMemory {
        let estimates = self.list().into_iter().filter_map(|(_, state)| match state {
            State::Ready(ready) | State::Unloading(ready) if ready.stats.fault().is_none() => {
                Some(ready.estimate)
            }
            _ => None,
        });
        let (mut promised, mut working) = (0, 0);
        for estimate in estimates {
            promised += estimate.total_mb();
            working += estimate.working_mb();
        }
        match self.config.engine.device_memory_mb {
            0 => {
                let system = host::memory();
                let free_mb = system.available_mb.saturating_sub(working);
                DeviceMemory {
                    total_mb: system.total_mb,
                    used_mb: system.total_mb.saturating_sub(free_mb),
                    free_mb,
                }
            }
            budget => DeviceMemory {
                total_mb: budget,
                used_mb: promised.min(budget),
                free_mb: budget.saturating_sub(promised),
            },
        }
    }
}
