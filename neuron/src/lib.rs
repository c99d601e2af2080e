//! neuron: the daemon on each machine that runs models, in process.
//!
//! Reading order: [`server`] puts the parts together; [`api`] is the HTTP side; [`registry`] knows which
//! models there are; [`sources`] and [`preflight`] get and check a file; [`device`] is the thread that
//! owns a device, and [`engine`] what runs on it; [`text`] with [`tokenizer`] and [`template`] is the
//! text side of a model. What is absent: no locks around a forward, no call from HTTP into a model, and
//! no tensor outside its device's thread.

mod api;
pub mod bench;
pub mod cli;
pub mod config;
mod defaults;
pub mod device;
mod embeds;
pub mod engine;
mod folder;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod gguf;
mod gpus;
mod grammar;
mod host;
mod look;
pub mod manage;
pub mod memory;
pub mod packed;
pub mod preflight;
mod progress;
mod reasoning;
mod registry;
pub mod run;
pub mod safetensors;
pub mod server;
pub mod shelf;
pub mod sources;
pub mod template;
pub mod text;
pub mod tokenizer;
mod tools;
