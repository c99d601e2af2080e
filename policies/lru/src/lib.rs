//! Eviction: the model that was used longest ago goes first.

#![cfg_attr(target_family = "wasm", no_std)]

extern crate alloc;

pub mod choose;
pub mod settings;

#[cfg(target_family = "wasm")]
mod component;
