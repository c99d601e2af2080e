//! The .deb files in a fresh Debian: installed, served from, upgraded, removed.

use super::{Package, dir, only};
use crate::{paths, sh};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const RELEASE: &str = "bookworm";
/// What a start or an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn check(packages: &[Package]) -> Result<()> {
    let root = fresh_root()?;
    let _proc = Proc::mount(&root)?;
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
    chat(&inside)?;
    edited_files_stay(&inside, packages)?;
    gone(&inside, packages)?;
    println!("debian: installed, served, upgraded and removed in {}", root.display());
    Ok(())
}

/// A Debian with nothing but what it must have; made once, and copied for each check.
fn fresh_root() -> Result<PathBuf> {
    let (base, root) = (paths::cache().join(format!("debian-{RELEASE}")), dir().join("debian"));
    if !base.join("etc/debian_version").exists() {
        let mut make = Command::new("debootstrap");
        make.args(["--variant=minbase", "--include=systemd,ca-certificates", RELEASE]).arg(&base);
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

/// A daemon of the installed system that ends with this.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The installed programs with the installed configuration, each as its own user, and the demo model.
fn chat(inside: &Inside<'_>) -> Result<()> {
    let hub = inside.0.join("var/lib/neuron/hub");
    let models = paths::artifact("models");
    if !models.exists() {
        bail!("target/models is missing: run cargo xtask setup");
    }
    sh::run(Command::new("cp").arg("-a").arg(models.join(".")).arg(&hub))?;
    sh::run(&mut inside.command(&["chown", "-R", "neuron:", "/var/lib/neuron"]))?;
    let start = |name: &str, env: &[(&str, &str)]| -> Result<Daemon> {
        let config = format!("/etc/{name}/{name}.toml");
        let user = format!("--reuid={name}");
        let group = format!("--regid={name}");
        let words = ["setpriv", &user, &group, "--clear-groups", name, "serve", "--config", &config];
        let mut command = inside.command(&words);
        Ok(Daemon(command.envs(env.iter().copied()).stdout(Stdio::null()).spawn()?))
    };
    let _neuron = start("neuron", &[("HF_HUB_CACHE", "/var/lib/neuron/hub"), ("HF_HUB_OFFLINE", "1")])?;
    let _cortex = start("cortex", &[])?;
    let (until, body) = (
        Instant::now() + PATIENCE,
        r#"{"model": "smollm2", "max_tokens": 16, "messages": [{"role": "user", "content": "Hello!"}]}"#,
    );
    loop {
        let said = ureq::post("http://127.0.0.1:31313/v1/chat/completions")
            .header("content-type", "application/json")
            .send(body)
            .and_then(|mut answer| answer.body_mut().read_to_string());
        match said {
            Ok(text) if text.contains("\"choices\"") => {
                println!("a chat with what was installed: {text}");
                return Ok(());
            }
            other if Instant::now() > until => bail!("no chat: {other:?}"),
            _ => std::thread::sleep(Duration::from_millis(500)),
        }
    }
}

/// What an administrator wrote outlives an upgrade.
fn edited_files_stay(inside: &Inside<'_>, packages: &[Package]) -> Result<()> {
    let edited = inside.0.join("etc/cortex/cortex.toml");
    let text = fs::read_to_string(&edited)? + "# mine\n";
    fs::write(&edited, &text)?;
    for package in packages {
        inside.install(&only(&dir(), &format!("{}_", package.called), ".deb")?)?;
    }
    match fs::read_to_string(&edited)? == text {
        true => Ok(()),
        false => bail!("an upgrade changed /etc/cortex/cortex.toml"),
    }
}

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
