//! Pinned memory of the host where what lies on a device can wait: back sooner than from a file.

use std::{cell::RefCell, rc::Rc};

use crate::{Buffer, Device, Error, ErrorKind, HostBuffer};

/// Bytes of a piece: large enough to be copied at the full rate.
const PIECE: usize = 64 << 20;

/// A budget of pinned memory, in pieces, which are kept for as long as any is in use: pinning takes long. Clones are the
/// same shelf.
#[derive(Clone)]
pub struct Shelf(Rc<RefCell<Inner>>);

struct Inner {
    device: Device,
    /// Pieces that it may have.
    most: usize,
    made: usize,
    free: Vec<HostBuffer>,
}

/// What was put there; its pieces go back to the shelf with it.
pub struct Shelved {
    shelf: Shelf,
    pieces: Vec<HostBuffer>,
    bytes: usize,
}

impl Shelf {
    /// `budget`: bytes at most; none are taken before something is put there.
    pub fn new(device: &Device, budget: u64) -> Self {
        let most = usize::try_from(budget).unwrap_or(usize::MAX) / PIECE;
        Self(Rc::new(RefCell::new(Inner { device: device.clone(), most, made: 0, free: Vec::new() })))
    }

    /// Bytes that something may have now.
    pub fn room(&self) -> u64 {
        let inner = self.0.borrow();
        ((inner.most - inner.made + inner.free.len()) * PIECE) as u64
    }

    /// Whether so many bytes may be put there now.
    pub fn has_room(&self, bytes: usize) -> bool {
        bytes.div_ceil(PIECE) * PIECE <= usize::try_from(self.room()).unwrap_or(usize::MAX)
    }

    /// Whether so many bytes ever could.
    pub fn could_have(&self, bytes: usize) -> bool {
        bytes.div_ceil(PIECE) <= self.0.borrow().most
    }

    /// Copies all of the buffers, one after the other. Errors where there is not enough room: then nothing is kept.
    pub fn put(&self, buffers: &[&Buffer]) -> Result<Shelved, Error> {
        let bytes = buffers.iter().map(|buffer| buffer.len()).sum();
        let mut shelved = Shelved { shelf: self.clone(), pieces: Vec::new(), bytes };
        for _ in 0..usize::div_ceil(bytes, PIECE) {
            shelved.pieces.push(self.piece()?);
        }
        shelved.each(buffers, |buffer, at, host| buffer.read(at, host))?;
        Ok(shelved)
    }

    fn piece(&self) -> Result<HostBuffer, Error> {
        let mut inner = self.0.borrow_mut();
        if let Some(piece) = inner.free.pop() {
            return Ok(piece);
        }
        if inner.made == inner.most {
            let text = format!(
                "there is no room for more than {} MiB of parked weights",
                inner.most * (PIECE >> 20)
            );
            return Err(Error::new(ErrorKind::Memory, text));
        }
        let piece = inner.device.alloc_host(PIECE)?;
        inner.made += 1;
        Ok(piece)
    }
}

impl Shelved {
    /// Copies everything back, into buffers of the same lengths as those that it came from.
    pub fn take(&mut self, buffers: &[&Buffer]) -> Result<(), Error> {
        let bytes: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        if bytes != self.bytes {
            return Err(Error::new(
                ErrorKind::Failed,
                format!("{bytes} bytes for {} that were put away", self.bytes),
            ));
        }
        self.each(buffers, |buffer, at, host| buffer.write(at, host))
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// For every run of a buffer that lies in one piece.
    fn each(
        &mut self,
        buffers: &[&Buffer],
        mut copy: impl FnMut(&Buffer, usize, &mut [u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut at = 0;
        for buffer in buffers {
            let mut done = 0;
            while done < buffer.len() {
                let (piece, within) = (at / PIECE, at % PIECE);
                let len = (PIECE - within).min(buffer.len() - done);
                copy(buffer, done, &mut self.pieces[piece].slice::<u8>()[within..within + len])?;
                done += len;
                at += len;
            }
        }
        Ok(())
    }
}

impl Drop for Shelved {
    fn drop(&mut self) {
        let mut inner = self.shelf.0.borrow_mut();
        inner.free.append(&mut self.pieces);
        // Where nothing is put away any more the host has its memory back.
        if inner.free.len() == inner.made {
            inner.free.clear();
            inner.made = 0;
        }
    }
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shelf with room for {} bytes", self.room())
    }
}

impl std::fmt::Debug for Shelved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes put away", self.bytes)
    }
}
