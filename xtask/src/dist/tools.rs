//! Packages by cargo-deb and cargo-generate-rpm, the bill of materials by cargo-cyclonedx: pinned, in the user's cache.

use super::{Package, dir, epoch, only, version};
use crate::{paths, sh};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// Versions that packages are made with.
const TOOLS: [(&str, &str); 3] =
    [("cargo-deb", "3.8.0"), ("cargo-generate-rpm", "0.21.1"), ("cargo-cyclonedx", "0.5.9")];

fn tool(name: &str) -> Result<PathBuf> {
    let root = paths::cache().join("tools");
    let program = root.join("bin").join(name);
    let version = TOOLS.iter().find(|(tool, _)| *tool == name).map(|(_, version)| *version);
    let version = version.with_context(|| format!("{name} has no version"))?;
    // Another version of this project may have put another one there.
    let listed = std::fs::read_to_string(root.join(".crates.toml")).unwrap_or_default();
    if !program.exists() || !listed.contains(&format!("\"{name} {version} ")) {
        let mut install =
            sh::cargo(&["install", "--quiet", "--locked", "--force", "--version", version, "--root"]);
        sh::run(install.arg(&root).arg(name))?;
    }
    Ok(program)
}

/// Their metadata is in host/Cargo.toml and neuron/Cargo.toml; what differs is said here.
fn manifest(package: &Package) -> PathBuf {
    let folder = if package.name == "cortex" { "host" } else { package.name };
    paths::root().join(folder).join("Cargo.toml")
}

pub(super) fn deb(package: &Package) -> Result<PathBuf> {
    let to = dir().join(format!("{}_{}_{}.deb", package.called, version()?, debian_architecture()));
    let mut make = Command::new(tool("cargo-deb")?);
    make.args(["--no-build", "--no-strip", "--quiet", "--manifest-path"]).arg(manifest(package));
    make.arg("--output").arg(&to).env("SOURCE_DATE_EPOCH", epoch()?).current_dir(paths::root());
    if let Some(flavour) = &package.flavour {
        make.args(["--variant", flavour]);
    }
    if package.name == "neuron" {
        // Debian has a package of this name that is something else, of a higher version.
        make.args(["--deb-version", &format!("1:{}", version()?)]);
    }
    sh::run(&mut make)?;
    Ok(to)
}

pub(super) fn rpm(package: &Package) -> Result<PathBuf> {
    let (version, arch) = (version()?, std::env::consts::ARCH);
    let to = dir().join(format!("{}-{version}-1.{arch}.rpm", package.called));
    let mut make = Command::new(tool("cargo-generate-rpm")?);
    let folder = if package.name == "cortex" { "host" } else { package.name };
    make.args(["-p", folder, "--source-date"])
        .arg(epoch()?)
        .arg("--output")
        .arg(&to)
        .current_dir(paths::root());
    if let Some(flavour) = &package.flavour {
        make.args(["--variant", flavour]);
    }
    sh::run(&mut make)?;
    Ok(to)
}

/// CycloneDX, of what the program is made of.
pub(super) fn bill(package: &Package) -> Result<PathBuf> {
    let to = dir().join(format!("{}-{}-{}.cdx.json", package.called, version()?, std::env::consts::ARCH));
    let mut make = Command::new(tool("cargo-cyclonedx")?);
    make.arg("cyclonedx").args(["--format", "json", "--override-filename", "bill", "--quiet"]);
    make.arg("--manifest-path").arg(manifest(package)).env("SOURCE_DATE_EPOCH", epoch()?);
    sh::run(make.current_dir(paths::root()))?;
    // It leaves one beside every manifest of the workspace.
    let made = manifest(package).with_file_name("bill.json");
    std::fs::copy(&made, &to).with_context(|| format!("{} was not made", made.display()))?;
    for folder in bills(&paths::root())? {
        std::fs::remove_file(folder)?;
    }
    Ok(to)
}

fn bills(root: &std::path::Path) -> Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--others", "--", "bill.json", "*/bill.json"]).current_dir(root);
    Ok(sh::output(&mut git)?.lines().map(|line| root.join(line)).collect())
}

fn debian_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Contents and scriptlets of each .rpm, as rpm itself reads them.
pub(super) fn check_rpms(packages: &[Package]) -> Result<()> {
    for package in packages {
        let file = only(&dir(), &format!("{}-{}-1", package.called, version()?), ".rpm")?;
        let ask = |what: &[&str]| {
            sh::output(Command::new("rpm").args(["-qp", "--nosignature"]).args(what).arg(&file))
        };
        let (name, files, config) = (package.name, ask(&["-l"])?, ask(&["-c"])?);
        let mut wanted = vec![
            format!("/usr/bin/{name}"),
            format!("/usr/lib/systemd/system/{name}.service"),
            format!("/usr/lib/sysusers.d/{name}.conf"),
            format!("/usr/lib/tmpfiles.d/{name}.conf"),
            format!("/usr/lib/firewalld/services/{name}.xml"),
            format!("/usr/share/man/man1/{name}.1.gz"),
            format!("/usr/share/bash-completion/completions/{name}"),
        ];
        if name == "cortex" {
            wanted.push("/usr/lib/cortex/policies/affinity.wasm".to_owned());
        }
        for path in &wanted {
            if !files.lines().any(|line| line == path) {
                bail!("{} has no {path}", file.display());
            }
        }
        if !config.lines().any(|line| line == format!("/etc/{name}/{name}.toml")) {
            bail!("{}: /etc/{name}/{name}.toml is not marked as configuration", file.display());
        }
        if name == "neuron" {
            for what in ["--provides", "--conflicts"] {
                if !ask(&[what])?.contains("neuron-daemon") {
                    bail!("{} says nothing of neuron-daemon by {what}", file.display());
                }
            }
        }
        let scripts = ask(&["--scripts"])?;
        for part in ["postinstall", "preuninstall", "postuninstall", "systemd-sysusers"] {
            if !scripts.contains(part) {
                bail!("{} has no {part} in its scripts:\n{scripts}", file.display());
            }
        }
        println!(
            "{}: {} files, {} of configuration",
            file.display(),
            files.lines().count(),
            config.lines().count()
        );
    }
    Ok(())
}
