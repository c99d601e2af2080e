//! Routing: the node that already holds this conversation, unless it is busy.

#![cfg_attr(target_family = "wasm", no_std)]

extern crate alloc;

pub mod choose;
pub mod settings;

#[cfg(target_family = "wasm")]
mod component;
