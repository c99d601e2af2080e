//! KIND: say in one line what it judges by.

// Without the standard library the component is half as large. Need it? Remove this line, and
// `policy_kit::runtime!()` and `policy_kit::Local` from component.rs.
#![cfg_attr(target_family = "wasm", no_std)]

extern crate alloc;

pub mod choose;

#[cfg(target_family = "wasm")]
mod component;
