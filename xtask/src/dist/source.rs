//! The sources, whole: for builders of distributions, who have no network while they build.

use super::{archive, dir, version};
use crate::{paths, sh};
use anyhow::{Result, bail};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// cortex-VERSION.tar.gz, cortex-VERSION-vendor.tar.gz, and a spec for each package.
pub(super) fn pack() -> Result<Vec<PathBuf>> {
    let (version, root) = (version()?, paths::root());
    let work = dir().join("source");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(work.join("tree"))?;
    let plain = dir().join(format!("cortex-{version}.tar.gz"));
    let listed = work.join("tree.tar");
    sh::run(
        Command::new("git")
            .args(["archive", "--format=tar", "-o"])
            .arg(&listed)
            .arg("HEAD")
            .current_dir(&root),
    )?;
    sh::run(Command::new("tar").arg("-xf").arg(&listed).arg("-C").arg(work.join("tree")))?;
    archive::pack(&work.join("tree"), &format!("cortex-{version}"), &plain)?;
    let vendored = work.join("vendor");
    let mut vendor = sh::cargo(&["vendor", "--locked", "--versioned-dirs"]);
    let config = sh::output(vendor.arg(vendored.join("vendor")))?;
    if !config.contains("[source.vendored-sources]") {
        bail!("cargo vendor does not say how its folder is used: {config:?}");
    }
    // As it lies in the builder's tree.
    let config = config.replace(&vendored.join("vendor").display().to_string(), "vendor");
    fs::create_dir_all(vendored.join(".cargo"))?;
    let own = fs::read_to_string(root.join(".cargo/config.toml")).unwrap_or_default();
    fs::write(vendored.join(".cargo/config.toml"), format!("{own}\n{config}"))?;
    let crates = dir().join(format!("cortex-{version}-vendor.tar.gz"));
    archive::pack(&vendored, &format!("cortex-{version}"), &crates)?;
    let mut made = vec![plain, crates];
    for name in ["cortex", "neuron"] {
        let text = fs::read_to_string(root.join(format!("packaging/rpm/{name}.spec")))?;
        let to = dir().join(format!("{name}.spec"));
        fs::write(&to, text.replace("@VERSION@", &version))?;
        made.push(to);
    }
    Ok(made)
}
