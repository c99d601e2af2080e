//! What an instance remembers between calls.

#![expect(unsafe_code, reason = "a static must be Sync, and on wasm32 without threads everything is")]

use core::cell::{Cell, UnsafeCell};

/// A `static` of one instance.
pub struct Local<T> {
    value: UnsafeCell<T>,
    lent: Cell<bool>,
}

// SAFETY: this module exists for wasm32 alone, the host refuses shared memories, and an instance is in one
// call at a time; so no second thread can reach the value.
unsafe impl<T> Sync for Local<T> {}

impl<T> Local<T> {
    pub const fn new(value: T) -> Self {
        Self { value: UnsafeCell::new(value), lent: Cell::new(false) }
    }

    /// Traps where `work` asks for the same value again.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        // A RefCell does the same with more code: it formats its panic.
        if self.lent.replace(true) {
            core::arch::wasm32::unreachable();
        }
        // SAFETY: `lent` was false, so this is the only reference until it is false again.
        let answer = work(unsafe { &mut *self.value.get() });
        self.lent.set(false);
        answer
    }
}
