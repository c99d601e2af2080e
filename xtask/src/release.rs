//! The two programs as operators build them. Always both together: cargo would build what they share anew for
//! each of them alone.

use crate::{paths, sh};
use anyhow::Result;
use std::path::PathBuf;

pub(crate) fn build() -> Result<()> {
    sh::run(&mut sh::cargo(&["build", "--quiet", "--locked", "--release", "-p", "cortex", "-p", "neuron"]))
}

/// Where the program of that name is.
pub(crate) fn binary(name: &str) -> PathBuf {
    paths::cargo_target().join("release").join(name)
}
