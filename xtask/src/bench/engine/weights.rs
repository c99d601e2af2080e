//! The demo model in four formats, three of them made from the first by llama.cpp's quantizer, in a hub cache
//! of their own: target/models-bench.

use super::llama_cpp::{self, LlamaCpp};
use crate::{model, paths, sh};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What neuron knows all four as.
pub(super) const ID: &str = "bench/SmolLM2-135M-Instruct";
const STEM: &str = "SmolLM2-135M-Instruct";
/// As the demo model is.
const GIVEN: &str = "Q4_1";
const MADE: [&str; 3] = ["Q8_0", "Q4_K_M", "BF16"];

/// One file.
pub(super) struct Weights {
    pub(super) quant: &'static str,
    pub(super) file: PathBuf,
}

impl Weights {
    /// `q4_k_m.decode_1t`.
    pub(super) fn figure(&self, name: &str) -> String {
        format!("{}.{name}", self.quant.to_ascii_lowercase())
    }

    /// Users are served with what is served in earnest, which BF16 is not on a CPU.
    pub(super) fn is_served(&self) -> bool {
        self.quant != "BF16"
    }
}

/// The hub cache.
pub(super) fn hub() -> PathBuf {
    paths::artifact("models-bench")
}

/// Makes what is missing.
pub(super) fn ensure(llama: &LlamaCpp) -> Result<Vec<Weights>> {
    let repo = hub().join(format!("models--{}", ID.replace('/', "--")));
    // Another llama.cpp may quantize otherwise.
    let revision = format!("llama.cpp-{}", llama_cpp::VERSION);
    let dir = repo.join("snapshots").join(&revision);
    fs::create_dir_all(&dir)?;
    fs::create_dir_all(repo.join("refs"))?;
    fs::write(repo.join("refs/main"), revision)?;
    let file = |quant: &str| dir.join(format!("{STEM}.{quant}.gguf"));
    let given = file(GIVEN);
    if !given.exists() {
        symlink(demo()?, &given).with_context(|| format!("cannot link {}", given.display()))?;
    }
    for quant in MADE.into_iter().filter(|quant| !file(quant).exists()) {
        println!("making {quant} of {GIVEN}");
        quantize(llama, &given, &file(quant), quant)?;
    }
    let all = std::iter::once(GIVEN).chain(MADE);
    Ok(all.map(|quant| Weights { quant, file: file(quant) }).collect())
}

/// The demo model's file, where `model::ensure` put it.
fn demo() -> Result<PathBuf> {
    let repo = paths::artifact("models").join(format!("models--{}", model::ID.replace('/', "--")));
    let revision = fs::read_to_string(repo.join("refs/main"))?;
    let file = repo.join("snapshots").join(revision.trim()).join(format!("{STEM}.{GIVEN}.gguf"));
    fs::canonicalize(&file).with_context(|| format!("the demo model is not at {}", file.display()))
}

/// The file appears whole or not.
fn quantize(llama: &LlamaCpp, from: &Path, to: &Path, quant: &str) -> Result<()> {
    let part = to.with_extension("part");
    let mut command = Command::new(&llama.quantize);
    command.arg("--allow-requantize").args([from, &part]).arg(quant);
    sh::run(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    Ok(fs::rename(part, to)?)
}
