//! The files of a package where they are to lie, under target/packages/stage/NAME.

use super::{Package, dir};
use crate::{paths, sh};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lays the tree out anew.
pub(super) fn lay_out(package: &Package) -> Result<PathBuf> {
    let root = dir().join("stage").join(package.name);
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let tree = Tree { root: root.clone() };
    let (name, repo) = (package.name, paths::root());
    let packaging = repo.join("packaging");
    let binary = tree.copy(&package.binary, &format!("usr/bin/{name}"), 0o755)?;
    for unit in
        ["{name}.service", "{name}.socket", "{name}-devices.service"].map(|unit| unit.replace("{name}", name))
    {
        let from = packaging.join("systemd").join(&unit);
        if from.exists() {
            tree.copy(&from, &format!("usr/lib/systemd/system/{unit}"), 0o644)?;
        }
    }
    tree.copy(
        &packaging.join(format!("sysusers/{name}.conf")),
        &format!("usr/lib/sysusers.d/{name}.conf"),
        0o644,
    )?;
    tree.copy(
        &packaging.join(format!("tmpfiles/{name}.conf")),
        &format!("usr/lib/tmpfiles.d/{name}.conf"),
        0o644,
    )?;
    tree.copy(
        &packaging.join(format!("firewalld/{name}.xml")),
        &format!("usr/lib/firewalld/services/{name}.xml"),
        0o644,
    )?;
    settings(&tree, package, &packaging)?;
    if name == "cortex" {
        for policy in fs::read_dir(paths::artifact("policies"))? {
            let policy = policy?.path();
            let file = policy.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if file.ends_with(".wasm") {
                tree.copy(&policy, &format!("usr/lib/cortex/policies/{file}"), 0o644)?;
            }
        }
        let examples = "usr/share/doc/cortex/examples";
        tree.copy(&packaging.join("grafana/cortex.json"), &format!("{examples}/grafana.json"), 0o644)?;
        tree.copy(
            &packaging.join("prometheus/cortex.rules.yml"),
            &format!("{examples}/prometheus.rules.yml"),
            0o644,
        )?;
    }
    for file in ["README.md", "CHANGELOG.md", "LICENSE"] {
        let to = if file == "LICENSE" { "copyright" } else { file };
        tree.copy(&repo.join(file), &format!("usr/share/doc/{}/{to}", package.called), 0o644)?;
    }
    words(&tree, name, &binary)?;
    Ok(root)
}

struct Tree {
    root: PathBuf,
}

impl Tree {
    fn copy(&self, from: &Path, to: &str, mode: u32) -> Result<PathBuf> {
        let text = fs::read(from).with_context(|| format!("{} cannot be read", from.display()))?;
        self.write(to, &text, mode)
    }

    fn write(&self, to: &str, bytes: &[u8], mode: u32) -> Result<PathBuf> {
        let path = self.root.join(to);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(path)
    }
}

/// What the administrator edits: the examples, as they would be installed.
fn settings(tree: &Tree, package: &Package, packaging: &Path) -> Result<()> {
    let name = package.name;
    let example = fs::read_to_string(packaging.join(format!("{name}.example.toml")))?;
    let text = example.replace("\"models.example.toml\"", "\"models.toml\"");
    // So that `neuron pull` and its like have the cache that the service has.
    let text = text
        .replace("[sources.huggingface]\n", "[sources.huggingface]\ncache_dir = \"/var/lib/neuron/hub\"\n");
    tree.write(&format!("etc/{name}/{name}.toml"), text.as_bytes(), 0o644)?;
    if name == "cortex" {
        tree.copy(&packaging.join("models.example.toml"), "etc/cortex/models.toml", 0o644)?;
    }
    let variables = format!(
        "# NAME=value, a line each: what the files in /etc/{name} call *_env. Only root and {name} read this.\n"
    );
    tree.write(&format!("etc/{name}/environment"), variables.as_bytes(), 0o640)?;
    Ok(())
}

/// The manual and completions, made by the program itself.
fn words(tree: &Tree, name: &str, binary: &Path) -> Result<()> {
    let pages = tree.root.join("usr/share/man/man1");
    sh::run(Command::new(binary).arg("man").arg(&pages))?;
    let mut all = Vec::new();
    for page in fs::read_dir(&pages)? {
        all.push(page?.path());
    }
    // Without the time of day in it.
    sh::run(Command::new("gzip").args(["-9", "-n", "-f"]).args(&all))?;
    for (shell, to) in [
        ("bash", format!("usr/share/bash-completion/completions/{name}")),
        ("zsh", format!("usr/share/zsh/site-functions/_{name}")),
        ("fish", format!("usr/share/fish/vendor_completions.d/{name}.fish")),
    ] {
        let script = sh::output(Command::new(binary).args(["completions", shell]))?;
        tree.write(&to, script.as_bytes(), 0o644)?;
    }
    Ok(())
}
