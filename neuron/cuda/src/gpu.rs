//! A GPU by NVIDIA's driver.

mod blas;

use std::{
    cell::RefCell,
    collections::HashMap,
    ffi::{CString, c_void},
};

use cudarc::driver::{
    result::{self, DriverError},
    sys,
};

use crate::{
    Error, ErrorKind, Memory,
    driver::{Driver, Product, Replay},
};
use blas::Blas;

/// Kernels for devices, a fat binary a source; none where this build has none.
#[cfg(feature = "kernels")]
mod images {
    /// The driver reads it in place, as structs.
    #[repr(C, align(64))]
    struct Aligned<T>(T);

    include!(concat!(env!("OUT_DIR"), "/images.rs"));
}
#[cfg(feature = "kernels")]
use images::IMAGES;
#[cfg(not(feature = "kernels"))]
const IMAGES: &[&[u8]] = &[];

/// Compute capabilities that this build's kernels are compiled for, as `80,90`, ascending; `None` where it has none.
pub const fn compiled_for() -> Option<&'static str> {
    if IMAGES.is_empty() { None } else { option_env!("NEURON_CUDA_COMPILED_FOR") }
}

/// What the driver must know: the kernels are made by this version's compiler.
const OLDEST_CUDA: i32 = 13_000;

/// Errors after which nothing works any more in the context: `cuda.h` says of most that the process must be ended. Whether a
/// context that is reset works then is tried (see [`Gpu::set_up`]), and believed only once a kernel has run in it.
const STICKY: [u32; 18] =
    [4, 46, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 999];

pub(crate) struct Gpu {
    device: sys::CUdevice,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    functions: RefCell<HashMap<&'static str, sys::CUfunction>>,
    blas: Option<Blas>,
    multiprocessors: u32,
}

struct Graph(sys::CUgraphExec, sys::CUstream);

fn failed(what: &str, error: DriverError) -> Error {
    let code = error.0 as u32;
    let kind = match code {
        2 => ErrorKind::Memory,
        code if STICKY.contains(&code) => ErrorKind::Lost,
        _ => ErrorKind::Failed,
    };
    let words = error.error_string().ok().map(|text| text.to_string_lossy().into_owned());
    Error::new(kind, format!("{what}: {} (CUDA error {code})", words.unwrap_or_default()))
}

fn unavailable(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, text)
}

/// Why devices of this compute capability cannot run kernels compiled for these; `None`: they can.
pub(crate) fn mismatch(capability: (u32, u32), compiled_for: &str) -> Option<String> {
    let (major, minor) = capability;
    let compiled: Vec<(u32, u32)> = compiled_for
        .split(',')
        .filter_map(|sm| sm.trim().parse::<u32>().ok())
        .map(|sm| (sm / 10, sm % 10))
        .collect();
    // Code for a device runs on later ones of its generation, and intermediate code, which the newest has, on all later ones.
    let own = compiled.iter().any(|(m, n)| *m == major && *n <= minor);
    let later = compiled.iter().max().is_some_and(|newest| (major, minor) >= *newest);
    if own || later {
        return None;
    }
    let names: Vec<String> = compiled.iter().map(|(major, minor)| format!("{major}.{minor}")).collect();
    Some(format!(
        "the device's compute capability is {major}.{minor}, and this build of neuron has kernels for {}",
        names.join(", ")
    ))
}

/// A GPU as the driver shows it to this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The driver's number, which [`crate::Device::open`] takes.
    pub ordinal: usize,
    pub name: String,
    /// As NVML writes it, `GPU-xxxxxxxx-xxxx-…`.
    pub uuid: String,
    /// Major and minor.
    pub capability: (u32, u32),
    pub total_mb: u64,
    /// Why this build cannot use it; `None`: it can.
    pub unusable: Option<String>,
}

/// All GPUs that the driver shows; no context is made on any. Errors where this build has no kernels, or there is no driver
/// that can run them.
pub(crate) fn list() -> Result<Vec<Found>, Error> {
    let compiled_for = start()?;
    let count =
        result::device::get_count().map_err(|e| unavailable(failed("the GPUs cannot be counted", e).text))?;
    Ok((0..count).map(|ordinal| found(ordinal, compiled_for)).collect())
}

/// One that tells nothing of itself cannot be used, and hides no other.
fn found(ordinal: i32, compiled_for: &str) -> Found {
    let ask = || -> Result<Found, Error> {
        let device = result::device::get(ordinal).map_err(|e| failed("no such device", e))?;
        let capability = capability(device)?;
        // SAFETY: `device` is one of the driver's.
        let total = unsafe { result::device::total_mem(device) }.map_err(|e| failed("its memory", e))?;
        let uuid = result::device::get_uuid(device).map_err(|e| failed("its UUID", e))?;
        Ok(Found {
            ordinal: usize::try_from(ordinal).unwrap_or(0),
            name: result::device::get_name(device).map_err(|e| failed("its name", e))?,
            uuid: uuid_text(&uuid.bytes.map(|byte| byte.to_ne_bytes()[0])),
            capability,
            total_mb: total as u64 >> 20,
            unusable: mismatch(capability, compiled_for),
        })
    };
    ask().unwrap_or_else(|error| Found {
        ordinal: usize::try_from(ordinal).unwrap_or(0),
        name: format!("GPU {ordinal}"),
        uuid: String::new(),
        capability: (0, 0),
        total_mb: 0,
        unusable: Some(error.text),
    })
}

fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = "GPU".to_owned();
    let mut rest = &bytes[..];
    for len in [4, 2, 2, 2, 6] {
        let (part, after) = rest.split_at(len);
        text.push('-');
        part.iter().for_each(|byte| text += &format!("{byte:02x}"));
        rest = after;
    }
    text
}

fn attribute(device: sys::CUdevice, attribute: sys::CUdevice_attribute) -> Result<u32, Error> {
    // SAFETY: `device` is one of the driver's.
    let value = unsafe { result::device::get_attribute(device, attribute) };
    value.map(|n| u32::try_from(n).unwrap_or(0)).map_err(|e| failed("a device's attribute", e))
}

fn capability(device: sys::CUdevice) -> Result<(u32, u32), Error> {
    use sys::CUdevice_attribute_enum::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    Ok((attribute(device, MAJOR)?, attribute(device, MINOR)?))
}

/// Starts the driver; what this build's kernels are compiled for.
fn start() -> Result<&'static str, Error> {
    let Some(compiled_for) = compiled_for() else {
        return Err(unavailable(
            "this build of neuron has no CUDA kernels: use one made with `cargo xtask cuda build`",
        ));
    };
    // SAFETY: it only tries to open the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(unavailable("no NVIDIA driver on this host (libcuda.so.1 is missing)"));
    }
    result::init().map_err(|e| unavailable(failed("the NVIDIA driver does not start", e).text))?;
    let mut version = 0;
    // SAFETY: it writes one integer.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }
        .result()
        .map_err(|e| failed("the driver's version", e))?;
    if version < OLDEST_CUDA {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(unavailable(format!(
            "the NVIDIA driver knows CUDA {major}.{minor}, and neuron needs {}.0: install driver 580 or newer",
            OLDEST_CUDA / 1000
        )));
    }
    Ok(compiled_for)
}

impl Gpu {
    pub(crate) fn open(ordinal: usize) -> Result<Self, Error> {
        let compiled_for = start()?;
        let index = i32::try_from(ordinal).unwrap_or(i32::MAX);
        let device = result::device::get(index).map_err(|e| unavailable(failed("no such device", e).text))?;
        let capability = capability(device)?;
        if let Some(why) = mismatch(capability, compiled_for) {
            return Err(unavailable(why));
        }
        let multiprocessors =
            attribute(device, sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        Self::set_up(device, multiprocessors)
    }

    fn set_up(device: sys::CUdevice, multiprocessors: u32) -> Result<Self, Error> {
        let bind = || -> Result<(), DriverError> {
            // SAFETY: `device` is one of the driver's; the context is never released, as others of this process may use it.
            unsafe { result::ctx::set_current(result::primary_ctx::retain(device)?) }?;
            result::ctx::synchronize()
        };
        if bind().is_err() {
            // One that was lost before: nothing of it is used any more.
            // SAFETY: as above.
            unsafe { sys::cuDevicePrimaryCtxReset_v2(device) }
                .result()
                .map_err(|e| failed("the context cannot be reset", e))?;
            bind().map_err(|e| failed("the context cannot be set up", e))?;
        }
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|e| failed("no stream", e))?;
        let modules = IMAGES.iter().map(|image| {
            // SAFETY: the image is one that nvcc made.
            unsafe { result::module::load_data(image.as_ptr().cast()) }
                .map_err(|e| failed("the kernels cannot be loaded", e))
        });
        let modules = modules.collect::<Result<Vec<_>, Error>>()?;
        let blas = Blas::new(stream);
        let gpu = Self { device, stream, modules, functions: RefCell::default(), blas, multiprocessors };
        gpu.probe()?;
        Ok(gpu)
    }

    /// A kernel runs, and what it writes can be read.
    fn probe(&self) -> Result<(), Error> {
        let numbers: Vec<u8> = (0..32u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
        let (from, to) = (self.alloc(numbers.len())?, self.alloc(numbers.len())?);
        let mut params = Vec::new();
        for address in [from, to, 0] {
            params.extend(address.to_ne_bytes());
        }
        params.extend(32u64.to_ne_bytes());
        let mut read = vec![0; numbers.len()];
        let ran = self
            .write(from, &numbers)
            .and_then(|()| self.launch("convert_f32", [1, 1, 1], 256, &params))
            .and_then(|()| self.read(to, &mut read));
        ran?;
        self.free(from);
        self.free(to);
        match read == numbers {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Lost, "the GPU computes wrongly")),
        }
    }

    fn function(&self, kernel: &'static str) -> Result<sys::CUfunction, Error> {
        if let Some(function) = self.functions.borrow().get(kernel) {
            return Ok(*function);
        }
        let name = CString::new(kernel).unwrap_or_default();
        // SAFETY: the modules are loaded for as long as this is there.
        let found = self
            .modules
            .iter()
            .find_map(|module| unsafe { result::module::get_function(*module, name.clone()) }.ok());
        let function =
            found.ok_or_else(|| Error::new(ErrorKind::Failed, format!("there is no kernel {kernel}")))?;
        self.functions.borrow_mut().insert(kernel, function);
        Ok(function)
    }
}

impl Driver for Gpu {
    fn alloc(&self, bytes: usize) -> Result<u64, Error> {
        // SAFETY: a buffer writes to it before it reads, or takes what is there for garbage.
        unsafe { result::malloc_sync(bytes) }.map_err(|e| failed(&format!("no memory for {bytes} bytes"), e))
    }

    fn free(&self, address: u64) {
        // SAFETY: the buffer is the only one that has it, and the driver waits for what uses it.
        if let Err(error) = unsafe { result::free_sync(address) } {
            // Nothing to be done about it: the device is lost, and will say so.
            let _text = failed("memory cannot be given back", error);
        }
    }

    fn alloc_host(&self, bytes: usize) -> Result<*mut u8, Error> {
        // SAFETY: the buffer fills it at once.
        let address = unsafe { result::malloc_host(bytes, 0) }.map_err(|e| failed("no pinned memory", e))?;
        Ok(address.cast())
    }

    fn free_host(&self, address: *mut u8, _: usize) {
        // SAFETY: the buffer is the only one that has it.
        unsafe { result::free_host(address.cast()) }.ok();
    }

    fn write(&self, to: u64, from: &[u8]) -> Result<(), Error> {
        // SAFETY: the buffer has checked the range, and the copy is over before `from` may change: pinned memory would be
        // read at some later time.
        unsafe { result::memcpy_htod_async(to, from, self.stream) }
            .map_err(|e| failed("a copy to the device", e))?;
        self.synchronize()
    }

    fn read(&self, from: u64, into: &mut [u8]) -> Result<(), Error> {
        // SAFETY: the buffer has checked the range, and the copy is over before `into` is used again.
        unsafe { result::memcpy_dtoh_async(into, from, self.stream) }
            .map_err(|e| failed("a copy from the device", e))?;
        self.synchronize()
    }

    fn zero(&self, address: u64, bytes: usize) -> Result<(), Error> {
        // SAFETY: the buffer is that long.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream) }.map_err(|e| failed("zeros", e))
    }

    fn launch(&self, kernel: &'static str, grid: [u32; 3], threads: u32, params: &[u8]) -> Result<(), Error> {
        let function = self.function(kernel)?;
        let mut arguments = [params.as_ptr().cast_mut().cast::<c_void>()];
        let grid = (grid[0], grid[1], grid[2]);
        // SAFETY: the kernel takes one struct, of which `params` are the bytes; the driver copies them. The functions of
        // `ops` have checked what it points to.
        unsafe { result::launch_kernel(function, grid, (threads, 1, 1), 0, self.stream, &mut arguments) }
            .map_err(|e| failed(kernel, e))
    }

    fn multiply(&self, product: &Product) -> Result<bool, Error> {
        self.blas.as_ref().map_or(Ok(false), |blas| blas.multiply(product))
    }

    fn begin_recording(&self) -> Result<(), Error> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is ours.
        unsafe { result::stream::begin_capture(self.stream, mode) }
            .map_err(|e| failed("a graph cannot be begun", e))
    }

    fn end_recording(&self) -> Result<Box<dyn Replay>, Error> {
        // SAFETY: the stream is ours, and what it captured is instantiated once and then destroyed.
        unsafe {
            let graph =
                result::stream::end_capture(self.stream).map_err(|e| failed("a graph cannot be ended", e))?;
            if graph.is_null() {
                return Err(Error::new(ErrorKind::Failed, "nothing was captured"));
            }
            let made = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            result::graph::destroy(graph).ok();
            let exec = made.map_err(|e| failed("a graph cannot be made", e))?;
            Ok(Box::new(Graph(exec, self.stream)))
        }
    }

    fn synchronize(&self) -> Result<(), Error> {
        // SAFETY: the stream is ours.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| failed("the device failed", e))
    }

    fn is_done(&self) -> Result<bool, Error> {
        // SAFETY: the stream is ours.
        match unsafe { sys::cuStreamQuery(self.stream) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            other => other.result().map(|()| true).map_err(|e| failed("the device failed", e)),
        }
    }

    fn stream(&self) -> Option<*mut c_void> {
        Some(self.stream.cast())
    }

    fn memory(&self) -> Result<Memory, Error> {
        let (free, total) = result::mem_get_info().map_err(|e| failed("free memory", e))?;
        Ok(Memory { free: free as u64, total: total as u64 })
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }
}

impl Replay for Graph {
    fn replay(&self) -> Result<(), Error> {
        // SAFETY: buffers that the graph uses live as long as it does, by its owner.
        unsafe { result::graph::launch(self.0, self.1) }.map_err(|e| failed("a graph", e))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: it is ours, and not used any more.
        unsafe { result::graph::exec_destroy(self.0) }.ok();
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        self.blas = None;
        for module in self.modules.drain(..) {
            // SAFETY: no function of it is used any more.
            unsafe { result::module::unload(module) }.ok();
        }
        // SAFETY: as above; the context was retained once.
        unsafe {
            result::stream::destroy(self.stream).ok();
            result::primary_ctx::release(self.device).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_run_on_their_generation_and_on_all_that_come_after_the_newest() {
        let all = "80,86,89,90,120";
        for capability in [(8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (12, 0), (12, 1), (13, 0)] {
            assert_eq!(mismatch(capability, all), None, "{capability:?}");
        }
        for capability in [(7, 5), (6, 1), (10, 0), (11, 0)] {
            let why = mismatch(capability, all).unwrap();
            assert!(why.contains(&format!("{}.{}", capability.0, capability.1)), "{why}");
            assert!(why.ends_with("8.0, 8.6, 8.9, 9.0, 12.0"), "{why}");
        }
        assert_eq!(mismatch((10, 0), "90"), None);
        assert!(mismatch((8, 9), "90").is_some());
    }

    #[test]
    fn uuids_are_written_as_nvml_writes_them() {
        let bytes = std::array::from_fn(|n| u8::try_from(n * 17).unwrap());
        assert_eq!(uuid_text(&bytes), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn a_host_without_gpus_is_told_why_and_nothing_panics() {
        let Err(error) = Gpu::open(4096) else { panic!("a 4097th GPU") };
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(!error.text.is_empty());
    }
}
