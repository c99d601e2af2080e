//! The GPUs that this host has and this build can use, found once, at start.

use std::sync::Arc;

use neuron_cuda::{
    Device, Found,
    discovery::{Condition, Nvml},
};

use crate::{
    config::Devices,
    device::MakeBackend,
    engine::{Backend, CpuBackend, GpuBackend, GpuOptions},
};

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Gpus {
    /// Those that can be used.
    pub(crate) usable: Vec<Gpu>,
    /// Such as `580.65.06`.
    pub(crate) driver_version: Option<String>,
    /// The newest CUDA that the driver knows, such as `13.0`.
    pub(crate) cuda_version: Option<String>,
    /// Why there is none, for a person.
    pub(crate) reason: Option<String>,
    nvml: Option<Nvml>,
}

/// A GPU, and its number in NVML, which counts those too that this process may not see.
#[derive(Debug, Clone)]
pub(crate) struct Gpu {
    pub(crate) found: Found,
    nvml_index: Option<u32>,
}

impl Gpus {
    /// None are looked for.
    pub(crate) fn none(reason: &str) -> Self {
        Self { reason: Some(reason.to_owned()), ..Self::default() }
    }

    /// Errors where the configuration wants GPUs and none can be used.
    pub(crate) fn find(wanted: Devices) -> Result<Self, String> {
        if wanted == Devices::Cpu {
            return Ok(Self::none("engine.devices is \"cpu\""));
        }
        let nvml = Nvml::start();
        let (driver, nvml_says) = match &nvml {
            Ok(nvml) => (Some(nvml.driver()), None),
            Err(why) => (None, Some(why.clone())),
        };
        let known = nvml.as_ref().map(Nvml::gpus).unwrap_or_default();
        let (usable, reason) = match Device::list() {
            Ok(all) => {
                let why: Vec<String> = all
                    .iter()
                    .filter_map(|found| Some(format!("{}: {}", found.name, found.unusable.as_ref()?)))
                    .collect();
                let of = |found: Found| {
                    let same = known.iter().find(|gpu| gpu.uuid == found.uuid);
                    Gpu { nvml_index: same.map(|gpu| gpu.index), found }
                };
                let usable: Vec<Gpu> =
                    all.into_iter().filter(|found| found.unusable.is_none()).map(of).collect();
                // Where there is none, that is said where GPUs are looked for.
                why.iter()
                    .filter(|_| !usable.is_empty())
                    .for_each(|why| tracing::warn!(why, "a GPU is left out"));
                let none = if why.is_empty() { "the driver shows no GPU".to_owned() } else { why.join("; ") };
                let reason = usable.is_empty().then_some(none);
                (usable, reason)
            }
            // NVML knows the driver's state best, where it does not start.
            Err(error) => (Vec::new(), Some(nvml_says.unwrap_or(error.text))),
        };
        if let (Devices::Cuda, Some(reason)) = (wanted, &reason) {
            return Err(format!("engine.devices is \"cuda\", and no GPU can be used: {reason}"));
        }
        Ok(Self {
            usable,
            driver_version: driver.as_ref().map(|driver| driver.version.clone()),
            cuda_version: driver.map(|driver| driver.cuda).filter(|version| !version.is_empty()),
            reason,
            nvml: nvml.ok(),
        })
    }

    /// Keeps those that `set_up` succeeds for; of others it is said why they are left out.
    pub(crate) fn keep(&mut self, mut set_up: impl FnMut(&Gpu) -> Result<(), String>) {
        let mut failed = Vec::new();
        self.usable.retain(|gpu| match set_up(gpu) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(gpu = gpu.found.name, error, "the GPU is left out");
                failed.push(format!("{}: {error}", gpu.found.name));
                false
            }
        });
        if self.usable.is_empty() && !failed.is_empty() {
            self.reason = Some(failed.join("; "));
        }
    }

    /// What a model could have on the emptiest, MiB; `None`: there is none.
    pub(crate) fn most_free_mb(&self) -> Option<u64> {
        let free = |(n, gpu): (usize, &Gpu)| self.condition(n).free_mb.unwrap_or(gpu.found.total_mb);
        self.usable.iter().enumerate().map(free).max()
    }

    /// How one of the usable ones is now.
    pub(crate) fn condition(&self, index: usize) -> Condition {
        let nvml_index = self.usable.get(index).and_then(|gpu| gpu.nvml_index);
        nvml_index.zip(self.nvml.as_ref()).map(|(index, nvml)| nvml.condition(index)).unwrap_or_default()
    }
}

impl Gpu {
    /// Makes what computes on it. `host`: how weights are packed and caches are held.
    pub(crate) fn backend(&self, host: CpuBackend, options: GpuOptions) -> MakeBackend {
        let ordinal = self.found.ordinal;
        Arc::new(move || {
            let device = Device::open(ordinal).map_err(|e| e.text)?;
            Ok(Box::new(GpuBackend::new(device, host, options)) as Box<dyn Backend>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_cannot_be_set_up_hides_no_other() {
        let gpu = |ordinal: usize| Gpu {
            nvml_index: None,
            found: Found {
                ordinal,
                name: format!("card {ordinal}"),
                uuid: String::new(),
                capability: (9, 0),
                total_mb: 1000 * (ordinal as u64 + 1),
                unusable: None,
            },
        };
        let mut gpus = Gpus { usable: (0..3).map(gpu).collect(), ..Gpus::default() };
        assert_eq!(gpus.most_free_mb(), Some(3000));
        gpus.keep(|gpu| if gpu.found.ordinal == 1 { Err("it is in use".to_owned()) } else { Ok(()) });
        assert_eq!(gpus.usable.iter().map(|gpu| gpu.found.ordinal).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(gpus.reason, None);
        gpus.keep(|_| Err("gone".to_owned()));
        assert_eq!(gpus.reason.as_deref(), Some("card 0: gone; card 2: gone"));
        assert_eq!(gpus.most_free_mb(), None);
    }

    #[test]
    fn a_host_without_gpus_is_told_why() {
        let gpus = Gpus::find(Devices::Cpu).unwrap();
        assert_eq!(gpus.reason.as_deref(), Some("engine.devices is \"cpu\""));
        assert_eq!(gpus.condition(0), Condition::default());
        // Where there are GPUs and kernels for them, they are found; everywhere else it is said why not.
        let gpus = Gpus::find(Devices::Auto).unwrap();
        assert_eq!(gpus.usable.is_empty(), gpus.reason.is_some());
        match Gpus::find(Devices::Cuda) {
            Ok(found) => assert!(!found.usable.is_empty()),
            Err(why) => {
                assert!(why.starts_with("engine.devices is \"cuda\", and no GPU can be used: "), "{why}")
            }
        }
    }
}
