//! Eviction by residency class: a model displaces its own class or below, never above.

#![cfg_attr(target_family = "wasm", no_std)]

extern crate alloc;

pub mod choose;
pub mod settings;

#[cfg(target_family = "wasm")]
mod component;
