//! The specs, built as a builder of a distribution does: of the two sources alone, and without a network.

use super::{dir, only, version};
use crate::sh;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Fedora's, for machines that are none.
const MACROS: &str = "\
%_unitdir /usr/lib/systemd/system
%_sysusersdir /usr/lib/sysusers.d
%_tmpfilesdir /usr/lib/tmpfiles.d
";

/// `profile`: Cargo's.
pub(super) fn check(profile: &str) -> Result<()> {
    let top = dir().join("rpmbuild");
    if top.exists() {
        fs::remove_dir_all(&top)?;
    }
    fs::create_dir_all(top.join("SOURCES"))?;
    for source in ["", "-vendor"] {
        let name = format!("cortex-{}{source}.tar.gz", version()?);
        fs::copy(dir().join(&name), top.join("SOURCES").join(&name))
            .with_context(|| format!("{name} is missing: add --source"))?;
    }
    for name in ["cortex", "neuron"] {
        build(&top, &dir().join(format!("{name}.spec")), profile)?;
        let made = only(&top.join("RPMS").join(std::env::consts::ARCH), &format!("{name}-"), ".rpm")?;
        let mut list = Command::new("rpm");
        let files = sh::output(list.args(["-qp", "--nosignature", "-l"]).arg(&made))?;
        for path in [format!("/usr/bin/{name}"), format!("/etc/{name}/{name}.toml")] {
            if !files.lines().any(|line| line == path) {
                bail!("{} has no {path}:\n{files}", made.display());
            }
        }
        let mut ask = Command::new("rpm");
        let scripts = sh::output(ask.args(["-qp", "--nosignature", "--scripts"]).arg(&made))?;
        if !scripts.contains(&format!("rm -rf /var/cache/{name}")) {
            bail!("{} leaves its cache behind:\n{scripts}", made.display());
        }
        if name == "neuron" {
            let mut ask = Command::new("rpm");
            let conflicts = sh::output(ask.args(["-qp", "--nosignature", "--conflicts"]).arg(&made))?;
            if !conflicts.contains("neuron-daemon") {
                bail!("{} does not conflict with other flavours", made.display());
            }
        }
        println!("{name}.spec: built without a network, {} files", files.lines().count());
    }
    Ok(())
}

fn build(top: &Path, spec: &Path, profile: &str) -> Result<()> {
    let known = sh::output(Command::new("rpm").args(["--eval", "%{_unitdir}"]))?;
    // Packages that are wanted for building are looked for in RPM's own database.
    let mut build = Command::new("unshare");
    build.args(["--net", "rpmbuild", "-bb", "--nodeps", "--quiet"]);
    if known.trim().starts_with('%') {
        let own = top.join("macros");
        fs::write(&own, MACROS)?;
        build.arg(format!("--load={}", own.display()));
    }
    build.arg("--define").arg(format!("_topdir {}", top.display()));
    build.arg("--define").arg(format!("profile {profile}")).arg(spec);
    // Crates that this user has fetched, and where from, are not the builder's.
    build.env("CARGO_HOME", top.join("cargo")).env_remove("CARGO_TARGET_DIR");
    sh::run(&mut build).context("rpmbuild and unshare are needed, as root (Debian: apt install rpm)")
}
