use std::rc::Rc;

use crate::{
    Device, Error, ErrorKind,
    device::{Plain, bytes_of, bytes_of_mut},
};

/// Memory of a device; given back when the last part of it is dropped.
#[derive(Clone)]
pub struct Buffer {
    owner: Rc<Owner>,
    address: u64,
    bytes: usize,
}

struct Owner {
    device: Device,
    address: u64,
}

impl Buffer {
    pub(crate) fn new(device: &Device, bytes: usize) -> Result<Self, Error> {
        // Nothing has an address too.
        let address = device.driver().alloc(bytes.max(16))?;
        Ok(Self { owner: Rc::new(Owner { device: device.clone(), address }), address, bytes })
    }

    /// `bytes` of it from `offset` on, the same memory. Panics where they are not there.
    pub fn part(&self, offset: usize, bytes: usize) -> Self {
        Self { owner: Rc::clone(&self.owner), address: self.at(offset, bytes), bytes }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Of the byte at `offset`, of which `bytes` are used. Panics where they are not there: a launch is checked before.
    pub(crate) fn at(&self, offset: usize, bytes: usize) -> u64 {
        assert!(offset + bytes <= self.bytes, "{bytes} bytes at {offset} of {}", self.bytes);
        self.address + offset as u64
    }

    /// Copies `data` to the byte at `offset`; `data` may be changed once it returns.
    pub fn write<T: Plain>(&self, offset: usize, data: &[T]) -> Result<(), Error> {
        self.check(offset, size_of_val(data))?;
        self.owner.device.driver().write(self.address + offset as u64, bytes_of(data))
    }

    /// Fills `into` from the byte at `offset`, after all that was asked of the device before.
    pub fn read<T: Plain>(&self, offset: usize, into: &mut [T]) -> Result<(), Error> {
        self.check(offset, size_of_val(into))?;
        self.owner.device.driver().read(self.address + offset as u64, bytes_of_mut(into))
    }

    pub fn zero(&self) -> Result<(), Error> {
        self.owner.device.driver().zero(self.address, self.bytes)
    }

    fn check(&self, offset: usize, bytes: usize) -> Result<(), Error> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            let text = format!("{bytes} bytes at {offset} of a buffer of {}", self.bytes);
            return Err(Error::new(ErrorKind::Failed, text));
        }
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.device.driver().free(self.address);
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer of {} bytes", self.bytes)
    }
}

/// Memory of the host that a device copies from and to at its full rate; given back when it is dropped.
pub struct HostBuffer {
    device: Device,
    address: *mut u8,
    bytes: usize,
}

impl HostBuffer {
    pub(crate) fn new(device: &Device, bytes: usize) -> Result<Self, Error> {
        let bytes = bytes.max(16);
        let address = device.driver().alloc_host(bytes)?;
        // SAFETY: it was just allocated with that many bytes.
        unsafe { address.write_bytes(0, bytes) };
        Ok(Self { device: device.clone(), address, bytes })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        false
    }

    /// All of it, as so many whole `T` as there are.
    pub fn slice<T: Plain>(&mut self) -> &mut [T] {
        // SAFETY: the memory is ours alone, page-aligned, initialised, and any bytes are a `Plain`.
        unsafe { std::slice::from_raw_parts_mut(self.address.cast(), self.bytes / size_of::<T>()) }
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        self.device.driver().free_host(self.address, self.bytes);
    }
}

impl std::fmt::Debug for HostBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostBuffer of {} bytes", self.bytes)
    }
}
