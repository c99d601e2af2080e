//! What a machine with a GPU and without Rust or a network needs to test and measure: programs, models for tests, a script.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{ON_GPU, TESTS, cargo};
use crate::{paths, sh};

/// MiB that it may take.
const MOST: u64 = 60;

pub(crate) fn pack() -> Result<()> {
    super::build()?;
    let kernels = test_program(&["-p", "neuron-cuda", "--features", "emulated,kernels", "--test", "it"])?;
    let engine = test_program(&["-p", "neuron", "--features", "cuda", "--test", "it"])?;
    let folder = paths::artifact("cuda-bundle");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(folder.join("tests"))?;
    let neuron = paths::cargo_target().join("release/neuron");
    for (from, name) in [(neuron, "neuron"), (kernels, "kernels-test"), (engine, "engine-test")] {
        let to = folder.join(name);
        fs::copy(&from, &to).with_context(|| from.display().to_string())?;
        sh::run(Command::new("strip").arg(&to))?;
    }
    let data = paths::root().join("neuron/tests/data");
    sh::run(Command::new("cp").arg("-r").arg(&data).arg(folder.join("tests")))?;
    fs::copy(paths::root().join("xtask/src/cuda/peer.py"), folder.join("peer.py"))?;
    let script = folder.join("run.sh");
    fs::write(
        &script,
        SCRIPT.replace("@NAME@", ON_GPU.0).replace("@VALUE@", ON_GPU.1).replace("@TESTS@", TESTS),
    )?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let archive = paths::artifact("cuda-bundle.tar.gz");
    let target = archive.parent().unwrap_or(Path::new("."));
    sh::run(Command::new("tar").arg("-C").arg(target).args(["-czf"]).arg(&archive).arg("cuda-bundle"))?;
    let size = fs::metadata(&archive)?.len() >> 20;
    if size > MOST {
        bail!("{} has {size} MiB, and may have {MOST}", archive.display());
    }
    println!(
        "{} ({size} MiB): unpack it on a machine with a GPU, and run ./cuda-bundle/run.sh",
        archive.display()
    );
    Ok(())
}

/// The tests, and then the figures; each says by itself what went wrong, and the rest goes on.
const SCRIPT: &str = r#"#!/usr/bin/env bash
# What needs a GPU, a driver from 580 on, glibc and libstdc++: the kernels against sums in 64 bits, the engine against transformers and the CPU, figures. Prints tables.
cd "$(dirname "$0")"
export @NAME@=@VALUE@ NEURON_TEST_ROOT="$PWD" RUST_BACKTRACE=0
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
failed=0
./kernels-test --skip discovery --test-threads 1 || failed=1
./engine-test @TESTS@ --skip a_real_model --test-threads 1 || failed=1
mkdir -p out
./neuron bench-gpu --json > out/neuron.json || failed=1
cat out/neuron.json
if command -v python3 > /dev/null && python3 -c 'import torch, transformers' 2> /dev/null; then
    python3 peer.py | tee out/peer.json
else
    echo "no PyTorch with transformers here: nothing to measure beside"
fi
exit $failed
"#;

/// Builds a test program and says where it lies.
fn test_program(args: &[&str]) -> Result<PathBuf> {
    let all = [&["test", "--locked", "--no-run", "--message-format", "json"], args].concat();
    let messages = sh::output(&mut cargo(&all)?)?;
    let program = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == "it" && message["profile"]["test"] == true;
        is_it.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    });
    program.context("cargo built no test program")
}
