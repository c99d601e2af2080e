//! A virtual environment with the official SDKs, in target/venv.

use crate::{paths, sh};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every package by exact version.
const REQUIREMENTS: &str = "xtask/requirements.txt";

/// The proxies that the gateway is measured beside.
const PEERS: &str = "xtask/bench-peers.txt";

/// The environment's interpreter. Made anew when the requirements change.
pub(crate) fn environment() -> Result<PathBuf> {
    install("venv", REQUIREMENTS, "the Python SDKs")
}

/// The folder with envoy, smg and vllm-router in it.
pub(crate) fn peers() -> Result<PathBuf> {
    Ok(install("bench/peers", PEERS, "envoy, smg and vllm-router")?.with_file_name(""))
}

/// The interpreter of a virtual environment with those packages.
fn install(name: &str, requirements: &str, what: &str) -> Result<PathBuf> {
    let venv = paths::artifact(name);
    let python = venv.join("bin/python");
    let file = paths::root().join(requirements);
    let wanted = fs::read_to_string(&file)?;
    let stamp = venv.join("requirements.txt");
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|done| done == wanted) {
        return Ok(python);
    }
    println!("installing {what} into target/{name}");
    if venv.exists() {
        fs::remove_dir_all(&venv)?;
    }
    let system = if which("python3") { "python3" } else { "python" };
    sh::run(Command::new(system).args(["-m", "venv"]).arg(&venv))
        .context("Python 3.9 or newer with venv and pip is needed (Debian: python3-venv)")?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r"];
    sh::run(Command::new(&python).args(pip).arg(&file)).with_context(|| {
        format!("{what} cannot be installed; check that pip reaches its index (pip config list)")
    })?;
    fs::write(stamp, wanted)?;
    Ok(python)
}

/// Zig's C compiler, which makes WebAssembly and comes as a wheel of 101 MB.
const C_COMPILER: &str = "ziglang==0.17.1";

/// Installs the C compiler into the environment.
pub(crate) fn c_compiler(python: &Path) -> Result<()> {
    if has_c_compiler(python) {
        return Ok(());
    }
    println!("installing {C_COMPILER} into target/venv");
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", C_COMPILER];
    sh::run(Command::new(python).args(pip)).context("the C compiler cannot be installed")
}

/// Whether [`c_compiler`] was here, in this version.
pub(crate) fn has_c_compiler(python: &Path) -> bool {
    let ask = "import importlib.metadata as m; print('ziglang==' + m.version('ziglang'))";
    let answer = Command::new(python).args(["-c", ask]).output();
    answer.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).trim() == C_COMPILER)
}

/// Where [`environment`] puts the interpreter.
pub(crate) fn interpreter() -> PathBuf {
    paths::artifact("venv").join("bin/python")
}

fn which(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success())
}
