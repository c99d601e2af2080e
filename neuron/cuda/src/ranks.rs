//! Ranks on several GPUs, by NCCL, where it is installed.

use std::panic::catch_unwind;

use cudarc::nccl::{result, sys};

use crate::{Buffer, Device, Error, ErrorKind};

/// Bytes by which the ranks of one model find each other.
pub const ID_BYTES: usize = 128;

/// One rank of several. All of them call the same functions in the same order.
pub struct Ranks {
    device: Device,
    stream: sys::cudaStream_t,
    comm: sys::ncclComm_t,
    aborted: bool,
}

fn failed(what: &str, error: &result::NcclError) -> Error {
    Error::new(ErrorKind::Failed, format!("NCCL: {what}: {:?}", error.0))
}

impl Ranks {
    /// Whether the library is there and the device is one that it knows.
    pub fn can_be_on(device: &Device) -> bool {
        // SAFETY: it only tries to open the library, and cudarc panics where a function is missing in it.
        device.driver().stream().is_some()
            && catch_unwind(|| unsafe { sys::is_culib_present() }).unwrap_or(false)
    }

    /// Made by one rank, and brought to the others.
    pub fn id() -> Result<[u8; ID_BYTES], Error> {
        let id = result::get_uniqueid().map_err(|e| failed("no id", &e))?;
        Ok(id.internal.map(|byte| byte.to_ne_bytes()[0]))
    }

    /// Returns once all of `size` ranks have called it.
    pub fn join(device: &Device, id: [u8; ID_BYTES], rank: usize, size: usize) -> Result<Self, Error> {
        let stream = device.driver().stream();
        let stream = stream
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "NCCL: the device is none that it knows"))?;
        let int = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let id = sys::ncclUniqueId { internal: id.map(|byte| byte.cast_signed() as _) };
        let mut comm = std::ptr::null_mut();
        // SAFETY: the context is current on this thread, which is the device's.
        unsafe { result::comm_init_rank(&raw mut comm, int(size), id, int(rank)) }
            .map_err(|e| failed("no ranks", &e))?;
        Ok(Self { device: device.clone(), stream: stream.cast(), comm, aborted: false })
    }

    /// The first `count` floats of the buffer become their sum over all ranks; it is done in its turn, like a kernel.
    pub fn all_reduce(&self, buffer: &Buffer, count: usize) -> Result<(), Error> {
        let address = buffer.at(0, count * 4);
        // SAFETY: the floats are there, and the communicator was not aborted.
        let asked = (!self.aborted).then(|| unsafe {
            result::all_reduce(
                address as *const _,
                address as *mut _,
                count,
                sys::ncclDataType_t::ncclFloat32,
                sys::ncclRedOp_t::ncclSum,
                self.comm,
                self.stream,
            )
        });
        match asked {
            None => Err(Error::new(ErrorKind::Failed, "NCCL: the ranks have parted")),
            Some(asked) => asked.map(|_| ()).map_err(|e| failed("a sum", &e)),
        }
    }

    /// Waits until all that was asked of the device is done, or until `give_up` says that another rank will not come: then the
    /// sum that is waited for ends without having been made.
    pub fn wait(&mut self, mut give_up: impl FnMut() -> bool) -> Result<(), Error> {
        let mut tries = 0u32;
        while !self.device.driver().is_done()? {
            if give_up() {
                self.abort();
                return Err(Error::new(ErrorKind::Failed, "NCCL: another rank did not come"));
            }
            // A step is some milliseconds: the first looks come quickly.
            tries += 1;
            match tries {
                ..=10_000 => std::hint::spin_loop(),
                _ => std::thread::sleep(std::time::Duration::from_micros(200)),
            }
        }
        Ok(())
    }

    /// Ends a sum that others are waited for in. Nothing can be summed after it.
    pub fn abort(&mut self) {
        if !self.aborted {
            self.aborted = true;
            // SAFETY: it is ours, and is not used after it.
            unsafe { result::comm_abort(self.comm) }.ok();
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        if !self.aborted {
            // SAFETY: as above. Where a rank is lost it may not return; then the model was aborted before.
            unsafe { result::comm_destroy(self.comm) }.ok();
        }
    }
}

impl std::fmt::Debug for Ranks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ranks")
    }
}
