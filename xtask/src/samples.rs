//! `cargo xtask build-samples`: policies outside the workspace, in Rust and in C, to target/samples.

use crate::{paths, policies, python, sh};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use wit_bindgen_core::{Files, wit_parser::Resolve};

/// Those that need nothing but Rust.
pub(crate) const RUST: [&str; 2] = ["rust-routing", "rust-dialect"];
const C: &str = "c-routing";

/// Where a Rust sample's manifest is.
pub(crate) fn manifest(name: &str) -> String {
    format!("samples/{name}/Cargo.toml")
}

/// The imports are checked as those of the project's own policies are.
pub(crate) fn build() -> Result<()> {
    build_rust()?;
    publish(C, c())
}

/// [`RUST`] alone.
pub(crate) fn build_rust() -> Result<()> {
    println!("{:<12} {:>8}  sha256", "sample", "bytes");
    RUST.into_iter().try_for_each(|name| publish(name, rust(name)))
}

fn publish(name: &str, module: Result<PathBuf>) -> Result<()> {
    let module = module.with_context(|| format!("sample {name}"))?;
    fs::create_dir_all(paths::artifact("samples"))?;
    policies::publish(&module, &paths::artifact("samples"), name)
}

/// Builds them and puts each through the gate.
pub(crate) fn check() -> Result<()> {
    build()?;
    let built = |name| paths::artifact("samples").join(name).with_extension("wasm");
    RUST.into_iter().chain([C]).try_for_each(|name| policies::gate(&built(name)))
}

fn rust(name: &str) -> Result<PathBuf> {
    let target = paths::cargo_target().join("samples");
    let args = ["build", "--quiet", "--release", "--locked", "--target", "wasm32-unknown-unknown"];
    let mut cargo = sh::cargo(&args);
    cargo.args(["--manifest-path", &manifest(name), "--target-dir"]).arg(&target);
    sh::run(&mut cargo)?;
    Ok(target.join("wasm32-unknown-unknown/release").join(format!("{}.wasm", name.replace('-', "_"))))
}

fn c() -> Result<PathBuf> {
    let python = python::interpreter();
    if !python::has_c_compiler(&python) {
        bail!("there is no C compiler for WebAssembly yet: run `cargo xtask setup --all`");
    }
    let bindings = paths::artifact("samples").join("c-bindings");
    generate(&bindings)?;
    let module = bindings.join("c-routing.module.wasm");
    let mut cc = Command::new(python);
    cc.args(["-m", "ziglang", "cc", "-target", "wasm32-wasi", "-mexec-model=reactor"])
        // Zig gives a stack of 16 MiB unless told otherwise: all the memory that a policy may have.
        .args(["-Oz", "-s", "-Wl,-z,stack-size=65536", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(&bindings)
        .arg(paths::root().join("samples/c-routing/policy.c"))
        .args(["routing_policy.c", "routing_policy_component_type.o"].map(|file| bindings.join(file)))
        .arg("-o")
        .arg(&module);
    sh::run(&mut cc)?;
    Ok(module)
}

/// The contract's routing world as C: a header, its glue, and an object file that carries the types.
fn generate(to: &Path) -> Result<()> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(paths::root().join("wit"))?;
    let world = resolve.select_world(&[package], Some("routing-policy"))?;
    let mut files = Files::default();
    wit_bindgen_c::Opts::default().build().generate(&mut resolve, world, &mut files)?;
    fs::create_dir_all(to)?;
    for (name, bytes) in files.iter() {
        fs::write(to.join(name), bytes)?;
    }
    Ok(())
}
