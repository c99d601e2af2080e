//! `cargo xtask build-policies`: every package in policies/ that is a component, to target/policies.

use crate::{paths, release, sh};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use std::process::Command;
use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

/// All that a policy may import.
const ALLOWED_IMPORTS: [&str; 2] = ["cortex:policy/host@", "cortex:policy/types@"];

/// Rust to a core module for wasm32-unknown-unknown, then to a component: no WASI is ever involved.
pub(crate) fn build() -> Result<()> {
    let names = names()?;
    let packages: Vec<String> = names.iter().map(|n| format!("policy-{n}")).collect();
    let mut args =
        vec!["build", "--quiet", "--lib", "--profile", "policy", "--target", "wasm32-unknown-unknown"];
    packages.iter().for_each(|p| args.extend(["-p", p]));
    sh::run(&mut sh::cargo(&args))?;

    let modules = paths::cargo_target().join("wasm32-unknown-unknown/policy");
    let out = paths::artifact("policies");
    fs::create_dir_all(&out)?;
    println!("{:<12} {:>8}  sha256", "policy", "bytes");
    for name in &names {
        publish(&modules.join(format!("policy_{}.wasm", name.replace('-', "_"))), &out, name)?;
    }
    Ok(())
}

/// Builds and tests the named policies and puts each through the gate.
pub(crate) fn try_out(names: &[String]) -> Result<()> {
    build()?;
    let mut args = vec!["test".to_owned(), "--quiet".into()];
    args.extend(names.iter().flat_map(|name| ["-p".into(), format!("policy-{name}")]));
    sh::run(sh::cargo(&[]).args(args))?;
    names.iter().try_for_each(|name| gate(&paths::artifact("policies").join(format!("{name}.wasm"))))
}

/// The gateway's own `cortex policy check`.
pub(crate) fn gate(component: &Path) -> Result<()> {
    release::build()?;
    sh::run(Command::new(release::binary("cortex")).args(["policy", "check"]).arg(component))
}

/// Folders of policies/ whose package builds a cdylib; the others are libraries that policies share.
fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(paths::root().join("policies"))? {
        let entry = entry?;
        let manifest = fs::read_to_string(entry.path().join("Cargo.toml")).unwrap_or_default();
        let manifest: toml::Table = manifest.parse()?;
        let types = manifest.get("lib").and_then(|lib| lib.get("crate-type")).and_then(|t| t.as_array());
        if types.is_some_and(|t| t.iter().any(|t| t.as_str() == Some("cdylib"))) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Makes a component of a core module, refuses it where it imports more than a policy may, and puts it at
/// `NAME.wasm` in the folder.
pub(crate) fn publish(module: &Path, folder: &Path, name: &str) -> Result<()> {
    let bytes = fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
    let component = componentize(&bytes).with_context(|| format!("policy {name}"))?;
    put(&folder.join(format!("{name}.wasm")), &component)?;
    println!("{name:<12} {:>8}  {}", component.len(), hex(&Sha256::digest(&component)));
    Ok(())
}

fn componentize(module: &[u8]) -> Result<Vec<u8>> {
    let component = ComponentEncoder::default().module(module)?.validate(true).encode()?;
    let foreign: Vec<String> = imports(&component)?
        .into_iter()
        .filter(|i| !ALLOWED_IMPORTS.iter().any(|a| i.starts_with(a)))
        .collect();
    if !foreign.is_empty() {
        bail!("it imports {}, and a policy may import only cortex:policy/host", foreign.join(", "));
    }
    Ok(component)
}

fn imports(component: &[u8]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) if depth > 0 => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    names.push(import?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(names)
}

/// By rename, so that a gateway that watches the folder never reads half a file. An unchanged file is
/// left alone, so that it is not swapped for nothing.
fn put(to: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let part = to.with_extension("part");
    fs::write(&part, bytes)?;
    Ok(fs::rename(&part, to)?)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The policies' glue exists only for their own target, where the workspace's lint run does not come.
pub(crate) fn lint() -> Result<()> {
    let names = names()?;
    let packages: Vec<String> = names.iter().map(|n| format!("policy-{n}")).collect();
    let mut args = vec!["clippy", "--quiet", "--locked", "--lib", "--target", "wasm32-unknown-unknown"];
    packages.iter().for_each(|p| args.extend(["-p", p]));
    args.extend(["--", "-D", "warnings"]);
    sh::run(&mut sh::cargo(&args))
}
