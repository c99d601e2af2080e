//! A device on the host: its memory is the host's, and kernels run as `kernels/emulated/run.cpp` runs them.

use std::{
    alloc::{Layout, alloc, dealloc},
    cell::{Cell, RefCell},
    collections::HashMap,
    ffi::{CString, c_char, c_int},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{
    Device, Error, ErrorKind, Memory,
    driver::{Driver, Product, Replay},
};

unsafe extern "C" {
    fn neuron_emulated_launch(
        name: *const c_char,
        grid: *const u32,
        threads: u32,
        params: *const u8,
        bytes: usize,
        seed: u32,
    ) -> c_int;
}

/// Bytes around every allocation that no kernel may write to.
const FENCE: usize = 256;
const FENCE_BYTE: u8 = 0xa5;

/// What tests do to a device, from any thread.
#[derive(Debug, Default)]
pub struct Faults {
    /// Everything fails as after an illegal address.
    pub lost: AtomicBool,
    /// Kernels that have run.
    pub launches: AtomicU64,
    /// Recordings that were run again.
    pub replays: AtomicU64,
}

pub(crate) struct Emulated(Rc<Host>);

struct Host {
    bytes: u64,
    used: Cell<u64>,
    /// Address and bytes.
    blocks: RefCell<HashMap<u64, usize>>,
    seed: Cell<u32>,
    recording: RefCell<Option<Vec<Launch>>>,
    faults: Arc<Faults>,
}

#[derive(Clone)]
struct Launch {
    kernel: &'static str,
    grid: [u32; 3],
    threads: u32,
    params: Vec<u8>,
}

struct Recorded(Rc<Host>, Vec<Launch>);

impl Device {
    /// As [`Device::emulated`], with what tests do to it.
    pub fn emulated_with(bytes: u64, faults: Arc<Faults>) -> Self {
        Self::of(Emulated(Rc::new(Host::new(bytes, faults))))
    }
}

impl Emulated {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(Rc::new(Host::new(bytes, Arc::default())))
    }
}

impl Host {
    fn new(bytes: u64, faults: Arc<Faults>) -> Self {
        Self {
            bytes,
            used: Cell::new(0),
            blocks: RefCell::default(),
            seed: Cell::new(1),
            recording: RefCell::default(),
            faults,
        }
    }

    fn check(&self) -> Result<(), Error> {
        match self.faults.lost.load(Ordering::SeqCst) {
            true => {
                Err(Error::new(ErrorKind::Lost, "an illegal memory access was encountered (CUDA error 700)"))
            }
            false => Ok(()),
        }
    }

    fn run(&self, launch: &Launch) -> Result<(), Error> {
        self.check()?;
        self.faults.launches.fetch_add(1, Ordering::Relaxed);
        let failed = |text: String| Err(Error::new(ErrorKind::Failed, format!("{}: {text}", launch.kernel)));
        let name = CString::new(launch.kernel).unwrap_or_default();
        self.seed.set(self.seed.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        let (params, bytes) = (launch.params.as_ptr(), launch.params.len());
        // SAFETY: the function checks the name and the size of the parameters; the addresses in them are the host's, checked
        // by `ops`.
        let code = unsafe {
            neuron_emulated_launch(
                name.as_ptr(),
                launch.grid.as_ptr(),
                launch.threads,
                params,
                bytes,
                self.seed.get(),
            )
        };
        match code {
            0 => {}
            1 => return failed("there is no such kernel".to_owned()),
            2 => return failed(format!("its parameters are not of {bytes} bytes")),
            _ => return failed("its threads wait for each other".to_owned()),
        }
        match self.blocks.borrow().iter().find(|(address, bytes)| !fences_are_whole(**address, **bytes)) {
            Some((_, bytes)) => failed(format!("it wrote beyond a buffer of {bytes} bytes")),
            None => Ok(()),
        }
    }
}

fn layout(bytes: usize) -> Layout {
    let rounded = bytes.next_multiple_of(FENCE) + 2 * FENCE;
    Layout::from_size_align(rounded, FENCE).unwrap_or(Layout::new::<u128>())
}

fn fences_are_whole(address: u64, bytes: usize) -> bool {
    const WHOLE: [u8; 2 * FENCE] = [FENCE_BYTE; 2 * FENCE];
    let after = layout(bytes).size() - FENCE - bytes;
    // SAFETY: `alloc` made room for both.
    unsafe {
        let start = address as *const u8;
        let before = std::slice::from_raw_parts(start.sub(FENCE), FENCE);
        let after = std::slice::from_raw_parts(start.add(bytes), after);
        before == &WHOLE[..FENCE] && after == &WHOLE[..after.len()]
    }
}

impl Driver for Emulated {
    fn alloc(&self, bytes: usize) -> Result<u64, Error> {
        let host = &self.0;
        host.check()?;
        if host.used.get() + bytes as u64 > host.bytes {
            return Err(Error::new(ErrorKind::Memory, format!("no memory for {bytes} bytes")));
        }
        // SAFETY: the layout is not empty. Bytes that are all ones are no numbers, to whoever reads before he writes.
        let address = unsafe {
            let start = alloc(layout(bytes));
            if start.is_null() {
                return Err(Error::new(ErrorKind::Memory, "the host has no memory left"));
            }
            start.write_bytes(FENCE_BYTE, layout(bytes).size());
            start.add(FENCE).write_bytes(0xff, bytes);
            start.add(FENCE) as u64
        };
        host.used.set(host.used.get() + bytes as u64);
        host.blocks.borrow_mut().insert(address, bytes);
        Ok(address)
    }

    fn free(&self, address: u64) {
        let Some(bytes) = self.0.blocks.borrow_mut().remove(&address) else { return };
        self.0.used.set(self.0.used.get() - bytes as u64);
        // SAFETY: `alloc` made it, with this layout.
        unsafe { dealloc((address as *mut u8).sub(FENCE), layout(bytes)) };
    }

    fn alloc_host(&self, bytes: usize) -> Result<*mut u8, Error> {
        // SAFETY: the layout is not empty.
        let address = unsafe { alloc(layout(bytes)) };
        match address.is_null() {
            true => Err(Error::new(ErrorKind::Memory, "the host has no memory left")),
            false => Ok(address),
        }
    }

    fn free_host(&self, address: *mut u8, bytes: usize) {
        // SAFETY: `alloc_host` made it, with this layout.
        unsafe { dealloc(address, layout(bytes)) };
    }

    fn write(&self, to: u64, from: &[u8]) -> Result<(), Error> {
        self.0.check()?;
        // SAFETY: the buffer has checked the range.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    fn read(&self, from: u64, into: &mut [u8]) -> Result<(), Error> {
        self.0.check()?;
        // SAFETY: the buffer has checked the range.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    fn zero(&self, address: u64, bytes: usize) -> Result<(), Error> {
        self.0.check()?;
        // SAFETY: the buffer is that long.
        unsafe { (address as *mut u8).write_bytes(0, bytes) };
        Ok(())
    }

    fn launch(&self, kernel: &'static str, grid: [u32; 3], threads: u32, params: &[u8]) -> Result<(), Error> {
        let launch = Launch { kernel, grid, threads, params: params.to_vec() };
        if let Some(recording) = self.0.recording.borrow_mut().as_mut() {
            recording.push(launch);
            return Ok(());
        }
        self.0.run(&launch)
    }

    fn multiply(&self, _: &Product) -> Result<bool, Error> {
        Ok(false)
    }

    fn begin_recording(&self) -> Result<(), Error> {
        self.0.check()?;
        self.0.recording.replace(Some(Vec::new()));
        Ok(())
    }

    fn end_recording(&self) -> Result<Box<dyn Replay>, Error> {
        let launches = self.0.recording.take().unwrap_or_default();
        Ok(Box::new(Recorded(Rc::clone(&self.0), launches)))
    }

    fn synchronize(&self) -> Result<(), Error> {
        self.0.check()
    }

    fn is_done(&self) -> Result<bool, Error> {
        self.0.check().map(|()| true)
    }

    fn stream(&self) -> Option<*mut std::ffi::c_void> {
        None
    }

    fn memory(&self) -> Result<Memory, Error> {
        self.0.check()?;
        Ok(Memory { free: self.0.bytes - self.0.used.get(), total: self.0.bytes })
    }

    fn multiprocessors(&self) -> u32 {
        4
    }
}

impl Replay for Recorded {
    fn replay(&self) -> Result<(), Error> {
        self.0.faults.replays.fetch_add(1, Ordering::Relaxed);
        self.1.iter().try_for_each(|launch| self.0.run(launch))
    }
}
