//! What a device is asked to do, whoever does it.

/// Why a device did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    pub kind: ErrorKind,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such device, or this build or the driver cannot use it.
    Unavailable,
    /// Its memory does not suffice.
    Memory,
    /// Nothing more can be computed in this process's context of it: the driver's errors of the kind that stays.
    Lost,
    /// What was asked for makes no sense, or went wrong by itself.
    Failed,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// Bytes of a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub free: u64,
    pub total: u64,
}

/// `out[tokens, rows] = x[tokens, columns] * w[rows, columns]`, by addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    pub(crate) w: u64,
    pub(crate) x: u64,
    pub(crate) out: u64,
    pub(crate) tokens: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Floats from one row of `out` to the next.
    pub(crate) out_stride: usize,
    pub(crate) float: neuron_kernels::dense::Float,
}

/// A device by its driver. What is asked for is done in the order in which it is asked for.
pub(crate) trait Driver {
    /// Memory of so many bytes, at least one.
    fn alloc(&self, bytes: usize) -> Result<u64, Error>;

    fn free(&self, address: u64);

    /// Memory of the host that the device reads and writes at its full rate.
    fn alloc_host(&self, bytes: usize) -> Result<*mut u8, Error>;

    fn free_host(&self, address: *mut u8, bytes: usize);

    /// Copies to the device; `from` may be changed once it returns.
    fn write(&self, to: u64, from: &[u8]) -> Result<(), Error>;

    /// Copies from the device, after all that was asked for before; returns when it is there.
    fn read(&self, from: u64, into: &mut [u8]) -> Result<(), Error>;

    fn zero(&self, address: u64, bytes: usize) -> Result<(), Error>;

    /// Runs a kernel over `grid` blocks of `threads`; `params` is its one argument.
    fn launch(&self, kernel: &'static str, grid: [u32; 3], threads: u32, params: &[u8]) -> Result<(), Error>;

    /// `false`: there is no library for it here.
    fn multiply(&self, product: &Product) -> Result<bool, Error>;

    /// Notes what is asked for from now on and does not do it.
    fn begin_recording(&self) -> Result<(), Error>;

    /// What was noted.
    fn end_recording(&self) -> Result<Box<dyn Replay>, Error>;

    /// Returns when all that was asked for is done.
    fn synchronize(&self) -> Result<(), Error>;

    /// Whether all that was asked for is done.
    fn is_done(&self) -> Result<bool, Error>;

    /// What other libraries of NVIDIA's are told of it by; `None`: it is none of theirs.
    fn stream(&self) -> Option<*mut std::ffi::c_void>;

    fn memory(&self) -> Result<Memory, Error>;

    /// Units that run blocks side by side.
    fn multiprocessors(&self) -> u32;
}

/// Kernels that were noted, to be run again as a whole.
pub(crate) trait Replay {
    fn replay(&self) -> Result<(), Error>;
}
