use std::rc::Rc;

use crate::{
    Buffer, Error, ErrorKind, HostBuffer, Memory,
    driver::{Driver, Product, Replay},
    gpu::{self, Found, Gpu},
};

/// A device. It is used by the thread that opened it, and by no other; clones are the same device.
#[derive(Clone)]
pub struct Device(Rc<dyn Driver>);

/// Kernels that run again as a whole, with the same arguments: what they read may have changed.
pub struct Recording(Box<dyn Replay>);

impl Device {
    /// All GPUs that the driver shows to this process; none of them is touched.
    ///
    /// Errors where this build has no kernels, or there is no driver that can run them.
    pub fn list() -> Result<Vec<Found>, Error> {
        gpu::list()
    }

    /// The GPU of this number, the driver's.
    ///
    /// Errors before anything of it is touched where this build has no kernels for it, or the driver is too old.
    pub fn open(ordinal: usize) -> Result<Self, Error> {
        Ok(Self(Rc::new(Gpu::open(ordinal)?)))
    }

    /// One that runs the same kernels on the host, slowly, with `bytes` of memory.
    #[cfg(feature = "emulated")]
    pub fn emulated(bytes: u64) -> Self {
        Self(Rc::new(crate::emulated::Emulated::new(bytes)))
    }

    #[cfg(feature = "emulated")]
    pub(crate) fn of(driver: impl Driver + 'static) -> Self {
        Self(Rc::new(driver))
    }

    /// Memory of which nothing is known.
    pub fn alloc(&self, bytes: usize) -> Result<Buffer, Error> {
        Buffer::new(self, bytes)
    }

    /// Memory of the host that the device reads and writes at its full rate, zeros.
    pub fn alloc_host(&self, bytes: usize) -> Result<HostBuffer, Error> {
        HostBuffer::new(self, bytes)
    }

    /// A buffer that holds these.
    pub fn upload<T: Plain>(&self, data: &[T]) -> Result<Buffer, Error> {
        let buffer = self.alloc(size_of_val(data))?;
        buffer.write(0, data)?;
        Ok(buffer)
    }

    /// What `run` asks for is noted instead of done, and can be run again and again.
    ///
    /// Errors where it asks for what cannot be noted, such as memory.
    pub fn record(&self, run: impl FnOnce() -> Result<(), Error>) -> Result<Recording, Error> {
        self.0.begin_recording()?;
        let ran = run();
        // It must end, whatever came of it.
        let recording = self.0.end_recording();
        ran?;
        Ok(Recording(recording?))
    }

    /// Returns when all that was asked for is done; errors where any of it failed.
    pub fn synchronize(&self) -> Result<(), Error> {
        self.0.synchronize()
    }

    pub fn memory(&self) -> Result<Memory, Error> {
        self.0.memory()
    }

    /// Units that run blocks side by side.
    pub fn multiprocessors(&self) -> u32 {
        self.0.multiprocessors()
    }

    pub(crate) fn driver(&self) -> &dyn Driver {
        &*self.0
    }

    /// The kernel takes exactly a `P`.
    pub(crate) fn launch<P: Copy>(
        &self,
        kernel: &'static str,
        grid: [usize; 3],
        threads: u32,
        params: &P,
    ) -> Result<(), Error> {
        if grid.contains(&0) {
            return Ok(());
        }
        // What a grid's second and third dimension may be.
        if grid[1..].iter().any(|n| *n > 65535) {
            return Err(Error::new(ErrorKind::Failed, format!("{kernel}: a grid of {grid:?} blocks")));
        }
        let grid = grid.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        // SAFETY: the bytes of a `repr(C)` struct without padding that is not initialised (they are all written with
        // `..zeroed` fields named), for as long as it is borrowed.
        let bytes =
            unsafe { std::slice::from_raw_parts(std::ptr::from_ref(params).cast::<u8>(), size_of::<P>()) };
        self.0.launch(kernel, grid, threads, bytes)
    }

    pub(crate) fn multiply(&self, product: &Product) -> Result<bool, Error> {
        self.0.multiply(product)
    }
}

impl Recording {
    /// Runs it once.
    pub fn replay(&self) -> Result<(), Error> {
        self.0.replay()
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Device")
    }
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recording")
    }
}

/// Numbers that are nothing but their bytes.
pub trait Plain: Copy + private::Sealed {}

mod private {
    pub trait Sealed {}
}

macro_rules! plain {
    ($($type:ty)*) => {
        $(impl private::Sealed for $type {}
        impl Plain for $type {})*
    };
}
plain!(u8 i8 u16 i32 u32 f32 crate::ops::Draw);

/// The bytes of numbers.
pub(crate) fn bytes_of<T: Plain>(data: &[T]) -> &[u8] {
    // SAFETY: a `Plain` type has no padding; the bytes live as long as `data` does.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), size_of_val(data)) }
}

/// As [`bytes_of`], to be written to: any bytes are a `Plain`.
pub(crate) fn bytes_of_mut<T: Plain>(data: &mut [T]) -> &mut [u8] {
    // SAFETY: as above, and every pattern of bits is a value.
    unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast(), size_of_val(data)) }
}
