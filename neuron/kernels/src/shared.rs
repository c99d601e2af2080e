//! One buffer, written by many tasks in places that do not overlap.

use std::marker::PhantomData;

/// A mutable slice that tasks take parts of.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    held: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are taken through `slice`, whose callers promise that they do not overlap.
unsafe impl<T: Send> Sync for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), held: PhantomData }
    }

    /// A part. Panics where it is not inside the buffer.
    ///
    /// # Safety
    /// No two parts that overlap may be alive at once.
    #[expect(clippy::mut_from_ref, reason = "that is what it is for; see its safety section")]
    pub(crate) unsafe fn slice(&self, from: usize, len: usize) -> &mut [T] {
        assert!(from.checked_add(len).is_some_and(|end| end <= self.len), "{from}+{len} of {}", self.len);
        // SAFETY: inside the buffer, and nobody else's by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}
