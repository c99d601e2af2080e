//! KIND: say in one line what it speaks.

pub mod choose;

#[cfg(target_family = "wasm")]
mod component;
