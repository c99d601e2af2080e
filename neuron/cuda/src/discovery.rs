//! What GPUs a host has, asked of NVML, which NVIDIA's driver brings: no GPU is touched for it, and nothing of it is needed to
//! compute.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    path::Path,
};

use libloading::Library;

/// Names under which the driver installs it.
const NAMES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// NVML's codes that mean more than that one figure is not to be had.
const DRIVER_NOT_LOADED: c_int = 9;
const VERSION_MISMATCH: c_int = 18;

/// NVML, started. Its functions may be called by any thread.
pub struct Nvml {
    functions: Functions,
    _library: Library,
}

/// The driver as NVML tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// Such as `580.65.06`.
    pub version: String,
    /// The newest CUDA that it knows, such as `13.0`.
    pub cuda: String,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    pub index: u32,
    pub name: String,
    pub uuid: String,
    /// Major and minor.
    pub capability: (u32, u32),
    pub total_mb: u64,
}

/// How a GPU is at the moment; what is not to be had is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Condition {
    pub free_mb: Option<u64>,
    pub utilization_percent: Option<u32>,
    /// Celsius.
    pub temperature: Option<u32>,
}

type Device = *mut c_void;

macro_rules! functions {
    ($($name:ident: $symbol:literal ($($argument:ty),*);)*) => {
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) -> c_int,)*
        }

        impl Functions {
            /// Errors with the name of one that is missing.
            fn of(library: &Library) -> Result<Self, String> {
                Ok(Self {
                    $($name: {
                        // SAFETY: the types are those of `nvml.h`.
                        let found = unsafe { library.get::<unsafe extern "C" fn($($argument),*) -> c_int>($symbol) };
                        *found.map_err(|_| concat!("NVML has no ", $symbol, ": the driver is too old").to_owned())?
                    },)*
                })
            }
        }
    };
}

functions! {
    init: "nvmlInit_v2"();
    shutdown: "nvmlShutdown"();
    driver_version: "nvmlSystemGetDriverVersion"(*mut c_char, c_uint);
    cuda_version: "nvmlSystemGetCudaDriverVersion_v2"(*mut c_int);
    count: "nvmlDeviceGetCount_v2"(*mut c_uint);
    device: "nvmlDeviceGetHandleByIndex_v2"(c_uint, *mut Device);
    name: "nvmlDeviceGetName"(Device, *mut c_char, c_uint);
    uuid: "nvmlDeviceGetUUID"(Device, *mut c_char, c_uint);
    memory: "nvmlDeviceGetMemoryInfo"(Device, *mut MemoryInfo);
    capability: "nvmlDeviceGetCudaComputeCapability"(Device, *mut c_int, *mut c_int);
    utilization: "nvmlDeviceGetUtilizationRates"(Device, *mut Utilization);
    temperature: "nvmlDeviceGetTemperature"(Device, c_uint, *mut c_uint);
}

#[repr(C)]
#[derive(Default)]
struct MemoryInfo {
    total: u64,
    free: u64,
    used: u64,
}

#[repr(C)]
#[derive(Default)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

impl Nvml {
    /// Starts it. Errors say why there are no GPUs here for now: no driver, one that is not loaded, or one whose library and
    /// kernel module are of different versions, as after an update without a restart.
    pub fn start() -> Result<Self, String> {
        let opened = NAMES.iter().find_map(|name| {
            // SAFETY: NVML does nothing when it is loaded.
            unsafe { Library::new(*name) }.ok()
        });
        match opened {
            Some(library) => Self::of(library),
            None if loaded_module() => {
                Err("NVML (libnvidia-ml.so.1) is missing, though NVIDIA's driver is loaded".to_owned())
            }
            None => Err("no NVIDIA driver on this host".to_owned()),
        }
    }

    /// As [`Self::start`], with the library in this file.
    pub fn start_from(path: &Path) -> Result<Self, String> {
        // SAFETY: as above; whoever calls this knows the file.
        let library = unsafe { Library::new(path) };
        Self::of(library.map_err(|e| format!("{}: {e}", path.display()))?)
    }

    fn of(library: Library) -> Result<Self, String> {
        let functions = Functions::of(&library)?;
        // SAFETY: it takes nothing.
        match unsafe { (functions.init)() } {
            0 => Ok(Self { functions, _library: library }),
            VERSION_MISMATCH => {
                Err("NVIDIA's driver was updated and its kernel module was not: restart the host, or reload the module".to_owned())
            }
            DRIVER_NOT_LOADED => Err("NVIDIA's driver is installed, and its kernel module is not loaded".to_owned()),
            code => Err(format!("NVML does not start: its error {code}")),
        }
    }

    pub fn driver(&self) -> Driver {
        let mut cuda = 0;
        // SAFETY: it writes one integer.
        let known = unsafe { (self.functions.cuda_version)(&raw mut cuda) } == 0;
        Driver {
            // SAFETY: it writes as many bytes at most as it is told.
            version: text(|buffer, len| unsafe { (self.functions.driver_version)(buffer, len) }),
            cuda: if known { format!("{}.{}", cuda / 1000, cuda % 1000 / 10) } else { String::new() },
        }
    }

    /// All GPUs, in the order of their places on the bus. One that cannot be asked is left out.
    pub fn gpus(&self) -> Vec<Gpu> {
        let mut count = 0;
        // SAFETY: it writes one integer.
        if unsafe { (self.functions.count)(&raw mut count) } != 0 {
            return Vec::new();
        }
        (0..count).filter_map(|index| self.gpu(index)).collect()
    }

    fn gpu(&self, index: u32) -> Option<Gpu> {
        let device = self.device(index)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: it writes two integers.
        if unsafe { (self.functions.capability)(device, &raw mut major, &raw mut minor) } != 0 {
            return None;
        }
        Some(Gpu {
            index,
            // SAFETY: they write as many bytes at most as they are told.
            name: text(|buffer, len| unsafe { (self.functions.name)(device, buffer, len) }),
            uuid: text(|buffer, len| unsafe { (self.functions.uuid)(device, buffer, len) }),
            capability: (u32::try_from(major).ok()?, u32::try_from(minor).ok()?),
            total_mb: self.memory(device)?.total >> 20,
        })
    }

    /// How a GPU is now.
    pub fn condition(&self, index: u32) -> Condition {
        let Some(device) = self.device(index) else { return Condition::default() };
        let (mut rates, mut temperature) = (Utilization::default(), 0);
        // SAFETY: they write a struct and an integer; sensor 0 is the GPU's own.
        let (rated, measured) = unsafe {
            (
                (self.functions.utilization)(device, &raw mut rates) == 0,
                (self.functions.temperature)(device, 0, &raw mut temperature) == 0,
            )
        };
        Condition {
            free_mb: self.memory(device).map(|memory| memory.free >> 20),
            utilization_percent: rated.then_some(rates.gpu),
            temperature: measured.then_some(temperature),
        }
    }

    fn device(&self, index: u32) -> Option<Device> {
        let mut device = std::ptr::null_mut();
        // SAFETY: it writes one pointer.
        (unsafe { (self.functions.device)(index, &raw mut device) } == 0).then_some(device)
    }

    fn memory(&self, device: Device) -> Option<MemoryInfo> {
        let mut info = MemoryInfo::default();
        // SAFETY: it writes one struct.
        (unsafe { (self.functions.memory)(device, &raw mut info) } == 0).then_some(info)
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // SAFETY: nothing of it is used after this.
        unsafe { (self.functions.shutdown)() };
    }
}

impl std::fmt::Debug for Nvml {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nvml")
    }
}

fn loaded_module() -> bool {
    std::fs::exists("/proc/driver/nvidia/version").unwrap_or(false)
}

/// What a function writes as text; empty where it fails.
fn text(ask: impl FnOnce(*mut c_char, c_uint) -> c_int) -> String {
    let mut buffer = [0u8; 128];
    // The last byte stays 0, whatever is written.
    if ask(buffer.as_mut_ptr().cast(), 127) != 0 {
        return String::new();
    }
    CStr::from_bytes_until_nul(&buffer)
        .map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
}
