//! The .deb files in a fresh Debian: in a bare tree, as in a container, and on a booted system.

use super::{Package, dir, only};
use crate::{paths, sh};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const RELEASE: &str = "bookworm";
/// Beside the least that a Debian is: what the check works with.
const INCLUDED: &str = "--include=systemd,ca-certificates,curl,procps,dbus";

pub(super) fn check(packages: &[Package]) -> Result<()> {
    let root = fresh_root("debian")?;
    let proc = Proc::mount(&root)?;
    let inside = Inside(&root);
    for package in packages {
        let file = only(&dir(), &format!("{}_", package.called), ".deb")?;
        inside.install(&file)?;
    }
    units(&inside)?;
    sh::run(&mut inside.command(&["cortex", "check"]))?;
    sh::run(&mut inside.command(&["neuron", "check", "--config", "/etc/neuron/neuron.toml"]))?;
    for user in ["cortex", "neuron"] {
        sh::run(&mut inside.command(&["id", user]))?;
    }
    gone(&inside, packages)?;
    drop(proc);
    let root = fresh_root("debian-booted")?;
    booted(&root, packages)?;
    println!("debian: installed, served, upgraded and removed in {}", root.display());
    Ok(())
}

/// A Debian with nothing but what it must have; made once, and copied for each check.
fn fresh_root(name: &str) -> Result<PathBuf> {
    let (base, root) = (paths::cache().join(format!("debian-{RELEASE}-2")), dir().join(name));
    if !base.join("etc/debian_version").exists() {
        let mut make = Command::new("debootstrap");
        make.args(["--variant=minbase", INCLUDED, RELEASE]).arg(&base);
        sh::run(&mut make).context("debootstrap is needed, as root (Debian: apt install debootstrap)")?;
    }
    if root.exists() {
        // Of a check that was killed.
        let _not_mounted = Command::new("umount").arg(root.join("proc")).stderr(Stdio::null()).status();
        fs::remove_dir_all(&root)?;
    }
    sh::run(Command::new("cp").arg("-a").arg(&base).arg(&root))?;
    Ok(root)
}

/// /proc of the fresh system, which goes with this.
struct Proc(PathBuf);

impl Proc {
    fn mount(root: &Path) -> Result<Self> {
        let at = root.join("proc");
        sh::run(Command::new("mount").args(["-t", "proc", "proc"]).arg(&at))?;
        Ok(Self(at))
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        let _stays_mounted = Command::new("umount").arg(&self.0).status();
    }
}

struct Inside<'a>(&'a Path);

impl Inside<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command.arg(self.0).args(words).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn install(&self, deb: &Path) -> Result<()> {
        fs::copy(deb, self.0.join("tmp/package.deb"))?;
        sh::run(&mut self.command(&["dpkg", "--force-confold", "-i", "/tmp/package.deb"]))
    }

    fn has(&self, path: &str) -> bool {
        self.0.join(path.trim_start_matches('/')).exists()
    }
}

/// As systemd would take them, and how exposed it finds them.
fn units(inside: &Inside<'_>) -> Result<()> {
    for (unit, most) in [("cortex.service", 2.5), ("neuron.service", 2.5)] {
        sh::run(&mut inside.command(&[
            "systemd-analyze",
            "verify",
            "--man=no",
            &format!("/usr/lib/systemd/system/{unit}"),
        ]))?;
        let path = format!("/usr/lib/systemd/system/{unit}");
        let said = sh::output(&mut inside.command(&[
            "systemd-analyze",
            "security",
            "--offline=true",
            "--no-pager",
            &path,
        ]))?;
        let level = said.lines().find_map(|line| {
            line.split("exposure level for").nth(1)?.split_whitespace().nth(1)?.parse::<f64>().ok()
        });
        let level = level.with_context(|| format!("systemd-analyze says no level for {unit}"))?;
        if level > most {
            bail!("{unit}: exposure {level}, and at most {most} is wanted");
        }
        println!("{unit}: verified, exposure {level}");
    }
    Ok(())
}

/// Everything that wants a running systemd: a machine of its own, with no network but its own loopback, whose one task
/// is `inside.sh`.
fn booted(root: &Path, packages: &[Package]) -> Result<()> {
    let check = root.join("check");
    fs::create_dir_all(&check)?;
    for package in packages {
        let file = only(&dir(), &format!("{}_", package.called), ".deb")?;
        fs::copy(file, check.join(format!("{}.deb", package.name)))?;
    }
    // One that an earlier call has made.
    for entry in fs::read_dir(dir())? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let is_other = !packages.iter().any(|package| name.starts_with(&format!("{}_", package.called)));
        if is_other && name.starts_with("neuron") && name.ends_with(".deb") {
            fs::copy(&path, check.join("other.deb"))?;
        }
    }
    let models = paths::artifact("models");
    fs::create_dir(check.join("models"))?;
    sh::run(Command::new("cp").arg("-a").arg(models.join(".")).arg(check.join("models")))?;
    fs::write(check.join("inside.sh"), include_str!("inside.sh"))?;
    let system = root.join("etc/systemd/system");
    fs::write(system.join("check.service"), CHECK_UNIT)?;
    let wanted = system.join("multi-user.target.wants");
    fs::create_dir_all(&wanted)?;
    std::os::unix::fs::symlink("../check.service", wanted.join("check.service"))?;
    let mut boot = Command::new("timeout");
    boot.args(["--kill-after=30", BOOTED_SECS, "systemd-nspawn"]);
    boot.args(["--quiet", "--boot", "--register=no", "--keep-unit", "--private-network", "--directory"]);
    boot.arg(root).stdin(Stdio::null()).stdout(Stdio::null());
    let status = boot.status();
    let status = status?;
    if status.code() == Some(127) {
        bail!("systemd-nspawn is needed (Debian: apt install systemd-container)");
    }
    let said = fs::read_to_string(check.join("log")).unwrap_or_default();
    print!("{said}");
    match said.lines().last() {
        Some("== all well") => Ok(()),
        _ => bail!("the packages did not pass in the booted system ({status})"),
    }
}

/// More than the unit may take.
const BOOTED_SECS: &str = "1000";
const CHECK_UNIT: &str = "\
[Unit]
SuccessAction=poweroff
FailureAction=poweroff
[Service]
Type=oneshot
ExecStart=/bin/bash /check/inside.sh
StandardOutput=file:/check/log
StandardError=inherit
TimeoutStartSec=900
";

/// Of a purge only data is left.
fn gone(inside: &Inside<'_>, packages: &[Package]) -> Result<()> {
    for package in packages {
        sh::run(&mut inside.command(&["dpkg", "--purge", &package.called]))?;
        let name = package.name;
        for path in [
            format!("/usr/bin/{name}"),
            format!("/etc/{name}"),
            format!("/var/cache/{name}"),
            format!("/usr/lib/systemd/system/{name}.service"),
            format!("/usr/share/doc/{}", package.called),
        ] {
            if inside.has(&path) {
                bail!("{path} is left after a purge");
            }
        }
        if !inside.has(&format!("/var/lib/{name}")) {
            bail!("/var/lib/{name} is gone, and data stays");
        }
    }
    Ok(())
}
