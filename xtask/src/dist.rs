//! `cargo xtask dist`: what operators install.
//!
//! A tree of files for each package is laid out once (`stage`); the .deb, the .rpm and the archive are made of it.

mod archive;
mod debian;
mod source;
mod specs;
mod stage;
mod tools;

use crate::{cuda, model, paths, policies, python, setup, sh};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// neuron with kernels for GPUs of these compute capabilities: package neuron-cuda for all ("80,86,89,90,100,120"),
    /// neuron-cuda-90 for one ("90")
    #[arg(long)]
    cuda: Option<String>,
    /// Cargo's profile; `release` is built faster and runs a little slower
    #[arg(long, default_value = "dist")]
    profile: String,
    /// Package what is built already
    #[arg(long)]
    no_build: bool,
    /// Also the sources with all their crates, and the source packages' specs, for builders without a network
    #[arg(long)]
    source: bool,
    /// Then install the .deb files into a fresh Debian (debootstrap, systemd-nspawn; as root) and serve from there, look
    /// into the .rpm files, and with --source build the specs without a network
    #[arg(long)]
    check: bool,
}

/// A package that is made.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    /// Of the files in packaging/: cortex or neuron.
    pub(crate) name: &'static str,
    /// What it is installed as.
    pub(crate) called: String,
    /// A variant in its Cargo.toml.
    flavour: Option<String>,
    binary: PathBuf,
}

pub(crate) fn dir() -> PathBuf {
    paths::artifact("packages")
}

const SUMS: &str = "SHA256SUMS";

pub(crate) fn run(args: &Args) -> Result<()> {
    let flavour = args.cuda.as_deref().map(flavour).transpose()?;
    if args.check && args.source && args.profile == "dev" {
        bail!("the specs are built by the profiles release and dist");
    }
    if args.check {
        // What the booted Debian chats with.
        model::ensure(&python::environment()?)?;
    }
    if !args.no_build {
        build(args)?;
    }
    let profile = if args.profile == "dev" { "debug" } else { &args.profile };
    let built = |name: &str| paths::cargo_target().join(profile).join(name);
    let neuron = flavour.as_ref().map_or_else(|| "neuron".to_owned(), |flavour| format!("neuron-{flavour}"));
    let packages = [
        Package { name: "cortex", called: "cortex".into(), flavour: None, binary: built("cortex") },
        Package { name: "neuron", called: neuron, flavour, binary: built("neuron") },
    ];
    is_built_for(args.cuda.as_deref(), &packages[1].binary)?;
    std::fs::create_dir_all(dir()).context("target/packages cannot be made")?;
    let mut made = Vec::new();
    for package in &packages {
        let root = stage::lay_out(package)?;
        made.push(archive::tar(package, &root)?);
        made.push(tools::deb(package)?);
        made.push(tools::rpm(package)?);
        made.push(tools::bill(package)?);
    }
    if args.source {
        made.extend(source::pack()?);
    }
    sums()?;
    for file in &made {
        println!("{:>9} KiB  {}", std::fs::metadata(file)?.len() >> 10, file.display());
    }
    if args.check {
        debian::check(&packages)?;
        tools::check_rpms(&packages)?;
        if args.source {
            specs::check(&args.profile)?;
        }
    }
    Ok(())
}

/// Compute capabilities that there are packages for (neuron/Cargo.toml).
const CAPABILITIES: [&str; 6] = ["80", "86", "89", "90", "100", "120"];

fn flavour(architectures: &str) -> Result<String> {
    match architectures {
        all if all == CAPABILITIES.join(",") => Ok("cuda".to_owned()),
        one if CAPABILITIES.contains(&one) => Ok(format!("cuda-{one}")),
        other => bail!("--cuda {other}: all of {}, or one of them", CAPABILITIES.join(",")),
    }
}

/// With `--no-build` another flavour's may lie there.
fn is_built_for(architectures: Option<&str>, neuron: &Path) -> Result<()> {
    let said = sh::output(Command::new(neuron).arg("--version"))?;
    let wanted = match architectures {
        Some(all) => format!("kernels for GPUs of compute capability {}", all.replace(',', ", ")),
        None => "no kernels for GPUs".to_owned(),
    };
    if !said.lines().any(|line| line == wanted) {
        bail!("{} is another flavour: {wanted} are asked for, and it says {said:?}", neuron.display());
    }
    Ok(())
}

fn build(args: &Args) -> Result<()> {
    setup::wasm_target()?;
    policies::build()?;
    let locked = ["build", "--locked", "--profile", &args.profile, "-p", "cortex", "-p", "neuron"];
    match &args.cuda {
        None => sh::run(&mut sh::cargo(&locked)),
        Some(architectures) => {
            let mut build = cuda::cargo(&[&locked[..], &["--features", "neuron/cuda"]].concat())?;
            sh::run(build.env("NEURON_CUDA_ARCHITECTURES", architectures))
        }
    }
}

/// The workspace's.
pub(crate) fn version() -> Result<String> {
    let text = std::fs::read_to_string(paths::root().join("Cargo.toml"))?;
    let table: toml::Table = text.parse().context("Cargo.toml")?;
    let version = table["workspace"]["package"]["version"].as_str();
    Ok(version.context("Cargo.toml has no workspace.package.version")?.to_owned())
}

/// When the commit was made: the only time that a package knows, so that it is the same whenever it is made.
pub(crate) fn epoch() -> Result<String> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]).current_dir(paths::root());
    Ok(sh::output(&mut git)?.trim().to_owned())
}

/// SHA256SUMS, as `sha256sum --check` reads it, of all that lies there: flavours are made one after the other.
fn sums() -> Result<()> {
    use sha2::{Digest, Sha256};
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir())? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_file() && name != SUMS {
            files.push(path);
        }
    }
    files.sort();
    let mut text = String::new();
    for file in files {
        let digest = Sha256::digest(std::fs::read(&file)?);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        text += &format!("{hex}  {name}\n");
    }
    Ok(std::fs::write(dir().join(SUMS), text)?)
}

/// The one file of `dir` whose name ends so and begins with `start`.
fn only(dir: &Path, start: &str, end: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with(start) && name.ends_with(end) {
            found.push(path);
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        _ => bail!("{} files {start}*{end} in {}", found.len(), dir.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `--cuda` takes is what there are packages of, by both makers, in the table for users and in the workflow.
    #[test]
    fn every_flavour_is_described_everywhere() {
        let read = |path: &str| std::fs::read_to_string(paths::root().join(path)).unwrap();
        let manifest: toml::Table = read("neuron/Cargo.toml").parse().unwrap();
        let (table, workflow) = (read("docs/installing.md"), read(".github/workflows/release.yml"));
        let all = CAPABILITIES.join(",");
        assert!(workflow.contains(&format!("for kinds in {all} {}; do", CAPABILITIES.join(" "))));
        for asked in CAPABILITIES.into_iter().chain([all.as_str()]) {
            let flavour = flavour(asked).unwrap();
            for maker in ["deb", "generate-rpm"] {
                let variant = &manifest["package"]["metadata"][maker]["variants"][&flavour];
                assert_eq!(variant["name"].as_str().unwrap(), format!("neuron-{flavour}"), "{maker}");
            }
            for relation in ["conflicts", "replaces"] {
                let others = manifest["package"]["metadata"]["deb"][relation].as_str().unwrap();
                assert!(others.split(", ").any(|name| name == format!("neuron-{flavour}")), "{relation}");
            }
            assert!(asked == all || table.contains(&format!("| `{asked}` |")), "{asked}");
        }
        for other in ["87", "80,90", "", "cuda"] {
            assert!(flavour(other).unwrap_err().to_string().contains("or one of them"), "{other}");
        }
    }
}
