//! `cargo xtask tidy`: what docs/architecture.md promises, checked.

use crate::{paths, sh};
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a source file; tests and their data aside.
const LONGEST_FILE: usize = 600;

/// Prints every broken promise, then fails.
pub(crate) fn run() -> Result<()> {
    let mut broken = Vec::new();
    dependencies(&mut broken)?;
    let mut sources = Vec::new();
    for dir in ["host", "neuron", "policies", "xtask"] {
        collect(&paths::root().join(dir), &mut sources)?;
    }
    for path in &sources {
        check_file(path, &mut broken)?;
    }
    if broken.is_empty() {
        println!("tidy: {} files, all well", sources.len());
        return Ok(());
    }
    broken.iter().for_each(|b| eprintln!("tidy: {b}"));
    bail!("{} broken promise(s)", broken.len())
}

/// Invariants 1, 2 and 4: who may know whom.
fn dependencies(broken: &mut Vec<String>) -> Result<()> {
    let never = [
        ("cortex", "normal,build,dev", &["neuron", "candle-core", "candle-transformers", "cudarc"][..]),
        ("neuron", "normal,build,dev", &["cortex", "wasmtime", "wit-bindgen", "wit-component"][..]),
    ];
    for (package, edges, forbidden) in never {
        let tree = tree(package, edges)?;
        for name in forbidden.iter().filter(|name| tree.iter().any(|t| t == *name)) {
            broken.push(format!("{package} depends on {name}"));
        }
    }
    let light = [
        "neuron-protocol",
        "serde",
        "serde_core",
        "serde_derive",
        "xxhash-rust",
        "proc-macro2",
        "quote",
        "syn",
        "unicode-ident",
    ];
    for name in tree("neuron-protocol", "normal")?.iter().filter(|name| !light.contains(&name.as_str())) {
        broken.push(format!("neuron-protocol depends on {name}, and may on serde and a hash alone"));
    }
    Ok(())
}

/// Names of everything that a package depends on.
fn tree(package: &str, edges: &str) -> Result<Vec<String>> {
    let args = ["tree", "--locked", "-p", package, "-e", edges, "--prefix", "none", "--format", "{p}"];
    let tree = sh::output(&mut sh::cargo(&args))?;
    Ok(tree.lines().filter_map(|line| line.split(' ').next()).map(String::from).collect())
}

fn collect(dir: &Path, sources: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            sources.push(path);
        }
    }
    Ok(())
}

fn check_file(path: &Path, broken: &mut Vec<String>) -> Result<()> {
    let root = paths::root();
    let shown = path.strip_prefix(&root).unwrap_or(path).display().to_string();
    let text = fs::read_to_string(path)?;
    let is_test = shown.contains("/tests/") || shown.ends_with("tests.rs");
    if shown.ends_with("/mod.rs") {
        broken.push(format!("{shown}: modules are foo.rs + foo/, never mod.rs"));
    }
    if text.lines().count() > LONGEST_FILE && !is_test {
        broken.push(format!("{shown}: {} lines, more than {LONGEST_FILE}", text.lines().count()));
    }
    // Invariant 3: the rest of the gateway could change its WebAssembly engine without noticing.
    let knows = text.contains("wasmtime::") || text.contains("wit_bindgen");
    if shown.starts_with("host/src/") && !shown.starts_with("host/src/policy") && knows {
        broken.push(format!("{shown}: wasmtime and generated types stay inside host/src/policy"));
    }
    Ok(())
}
