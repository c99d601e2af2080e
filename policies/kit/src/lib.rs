//! What the project's own policies share, so that each is 22 to 28 KB and not 42 to 127: no standard
//! library, no formatting, no JSON library. This is a library, not a policy.
//!
//! A policy says [`runtime!`] once, in the module that exists only for WebAssembly.

#![cfg_attr(target_family = "wasm", no_std)]

extern crate alloc;

pub mod hash;
pub mod settings;
mod sort;
mod text;

pub use sort::sort;
pub use text::{strings, text};

#[doc(hidden)]
pub mod heap;
#[cfg(target_family = "wasm")]
mod local;
#[cfg(target_family = "wasm")]
pub use local::Local;

/// The allocator and the panic handler of a policy without the standard library.
///
/// A panic is a trap: its text would have nowhere to go, so what writes it is left out.
#[macro_export]
macro_rules! runtime {
    () => {
        #[global_allocator]
        static HEAP: $crate::heap::Heap = $crate::heap::Heap::new();

        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo) -> ! {
            core::arch::wasm32::unreachable()
        }
    };
}
