//! `cargo xtask new-policy NAME --kind KIND`: a policy that builds and passes the gate, to edit from there.

use crate::{paths, policies};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What it is called: lower-case words joined by hyphens. The file's stem, and the key of its settings
    name: String,
    /// What it judges
    #[arg(long, value_enum)]
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Where a request goes
    Routing,
    /// Which models make room for another
    Eviction,
    /// One client dialect made of the native one
    Translation,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let policies = paths::root().join("policies");
    let dir = create(&policies, &args.name, args.kind)?;
    let (shown, name) = (dir.strip_prefix(paths::root()).unwrap_or(&dir).display(), &args.name);
    println!("{shown} is made; the judgement is in {shown}/src/choose.rs. Next:\n");
    println!("    cargo test -p policy-{name}");
    println!("    cargo xtask build-policies");
    println!("    cargo run -p cortex -- policy check target/policies/{name}.wasm");
    Ok(())
}

/// Writes all files or, where the name is wrong or taken, none.
fn create(policies: &Path, name: &str, kind: Kind) -> Result<PathBuf> {
    if !is_kebab_case(name) {
        bail!(
            "{name:?} is not a name: lower-case letters and digits in words joined by single hyphens, a letter first"
        );
    }
    let dir = policies.join(name);
    if dir.exists() {
        bail!("{} is there already", dir.display());
    }
    fs::create_dir_all(dir.join("src"))?;
    for (path, text) in render(name, kind) {
        let path = dir.join(path);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(dir)
}

fn is_kebab_case(name: &str) -> bool {
    let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= 40 && name.split('-').all(word)
}

/// Path in the policy's folder, and text.
fn render(name: &str, kind: Kind) -> [(&'static str, String); 4] {
    let (title, dependencies, choose, component) = match kind {
        Kind::Routing => (
            "Routing",
            "policy-kit = { path = \"../kit\" }",
            include_str!("../templates/routing/choose.rs"),
            include_str!("../templates/routing/component.rs"),
        ),
        Kind::Eviction => (
            "Eviction",
            "policy-kit = { path = \"../kit\" }\npolicy-victims = { path = \"../victims\" }",
            include_str!("../templates/eviction/choose.rs"),
            include_str!("../templates/eviction/component.rs"),
        ),
        Kind::Translation => (
            "Translation",
            "serde_json.workspace = true",
            include_str!("../templates/translation/choose.rs"),
            include_str!("../templates/translation/component.rs"),
        ),
    };
    let lib = match kind {
        // JSON with strings wants the standard library.
        Kind::Translation => include_str!("../templates/lib_std.rs"),
        _ => include_str!("../templates/lib.rs"),
    };
    // A small stack keeps an instance small; reading JSON takes a large one.
    let stack = if kind == Kind::Translation { "" } else { "build = \"../kit/stack.rs\"\n" };
    let fill = |text: &str| {
        let text = text.replace("DEPENDENCIES", dependencies).replace("STACK", stack);
        text.replace("NAME", name).replace("KIND", title)
    };
    [
        ("Cargo.toml", fill(include_str!("../templates/Cargo.toml"))),
        ("src/lib.rs", fill(lib)),
        ("src/choose.rs", fill(choose)),
        ("src/component.rs", fill(component)),
    ]
}

/// For the tests that take longer: one of each kind, in this workspace, which goes when it is dropped.
pub(crate) struct Trial(Vec<PathBuf>);

impl Trial {
    /// Their names begin with `trial-`; leftovers of an interrupted run are replaced.
    pub(crate) fn new() -> Result<(Self, Vec<String>)> {
        let policies = paths::root().join("policies");
        let mut trial = Self(Vec::new());
        let mut names = Vec::new();
        for (name, kind) in [
            ("trial-route", Kind::Routing),
            ("trial-evict", Kind::Eviction),
            ("trial-speak", Kind::Translation),
        ] {
            fs::remove_dir_all(policies.join(name)).ok();
            trial.0.push(policies.join(name));
            create(&policies, name, kind)?;
            names.push(name.to_owned());
        }
        Ok((trial, names))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        for dir in &self.0 {
            fs::remove_dir_all(dir).ok();
            if let Some(name) = dir.file_name() {
                fs::remove_file(paths::artifact("policies").join(name).with_extension("wasm")).ok();
            }
        }
    }
}

/// Makes one of each kind, builds, tests and checks it, and removes it again.
pub(crate) fn check() -> Result<()> {
    let lock = paths::root().join("Cargo.lock");
    let locked = fs::read(&lock)?;
    let (trial, names) = Trial::new()?;
    let done = policies::try_out(&names);
    drop(trial);
    // Cargo noted the new packages in it.
    fs::write(lock, locked)?;
    done
}

#[cfg(test)]
mod tests;
