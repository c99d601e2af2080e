//! A policy that comes over the admin API instead of being copied into the directory.

use super::gate::{self, GateReport, Setup};
use super::{Registry, limits};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Why it was not taken; what served goes on.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    #[error("{0:?} is no name for a policy: letters, digits, - and _ are, up to 64")]
    Name(String),
    #[error("{0} bytes, and a policy may have {1}")]
    TooLarge(u64, u64),
    #[error("there is no policy directory: [policies] dirs is empty")]
    NoDirectory,
    #[error("it cannot be written to {}: {error}", path.display())]
    Write { path: PathBuf, error: std::io::Error },
    #[error(
        "there is nothing to go back to: {0} has not been put here before, and no other directory has it"
    )]
    NothingBefore(String),
    #[error("it is in the directory, and another version of {0} serves; `cortex status` says why")]
    Overtaken(String),
    #[error("{}", refused(.0))]
    Refused(Box<GateReport>),
}

fn refused(report: &GateReport) -> String {
    match &report.refused {
        Some((stage, error)) => format!("refused at {stage}: {error}"),
        None => "refused".to_owned(),
    }
}

impl Registry {
    /// Puts a component through the gate, and where it passes into the last directory, whose files win. Blocking.
    pub fn upload(&self, name: &str, bytes: &[u8]) -> Result<GateReport, NotTaken> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_name) {
            return Err(NotTaken::Name(name.to_owned()));
        }
        let (sources, engine) = self.sources();
        let limit = sources.component_limit.min(limits::COMPONENT_AT_MOST);
        if bytes.len() as u64 > limit {
            return Err(NotTaken::TooLarge(bytes.len() as u64, limit));
        }
        let dir = sources.dirs.last().ok_or(NotTaken::NoDirectory)?;
        let path = dir.join(format!("{name}.wasm"));
        let settings = sources.settings.get(name).map_or("{}", String::as_str);
        let (report, generation) = gate::pass(Setup::apart(&engine, name, settings), &path, bytes);
        if generation.is_none() {
            return Err(NotTaken::Refused(Box::new(report)));
        }
        let previous = previous(dir, name);
        let is_first = !path.exists();
        let written = keep(&path, bytes, &previous).and_then(|()| write_whole(dir, &path, bytes));
        written.map_err(|error| NotTaken::Write { path, error })?;
        if is_first {
            // What lay there replaced nothing; not before the new one is safe, which may be made of it.
            let _there_is_none = std::fs::remove_file(previous);
        }
        self.rescan();
        // By a policy of that name in the same moment, or by another verdict where it is to serve.
        let table = self.table();
        let serves = table.by_name.get(name).is_some_and(|live| live.sha256 == report.sha256);
        if serves { Ok(report) } else { Err(NotTaken::Overtaken(name.to_owned())) }
    }
}

impl Registry {
    /// Back to what the last upload replaced, through the gate like any other, or else to what another directory
    /// has under that name; a second time undoes the first. Blocking.
    pub fn roll_back(&self, name: &str) -> Result<(), NotTaken> {
        let dirs = self.dirs();
        let dir = dirs.last().ok_or(NotTaken::NoDirectory)?;
        if !self.table().status().iter().any(|policy| policy.name == name) {
            return Err(NotTaken::NothingBefore(name.to_owned()));
        }
        if let Ok(bytes) = std::fs::read(previous(dir, name)) {
            return self.upload(name, &bytes).map(|_| ());
        }
        let path = dir.join(format!("{name}.wasm"));
        let elsewhere = dirs.iter().any(|other| other != dir && other.join(format!("{name}.wasm")).exists());
        if !(elsewhere && path.exists()) {
            return Err(NotTaken::NothingBefore(name.to_owned()));
        }
        let moved = std::fs::rename(&path, previous(dir, name));
        moved.map_err(|error| NotTaken::Write { path, error })?;
        self.rescan();
        Ok(())
    }
}

/// Where the last version stays; no scan takes it for a policy.
fn previous(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".{name}.previous"))
}

/// A second name for the file, which goes on when the first gets another.
fn keep(path: &Path, new: &[u8], previous: &Path) -> std::io::Result<()> {
    // Put once more, it is not what there was before.
    match std::fs::read(path) {
        Ok(old) if old != new => {}
        _ => return Ok(()),
    }
    match std::fs::remove_file(previous) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Filesystems without links have copies.
    std::fs::hard_link(path, previous).or_else(|_| std::fs::copy(path, previous).map(|_| ()))
}

/// Under another name first: no scan meets half of it, and a full disk leaves the old one.
fn write_whole(dir: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Two uploads at once do not write into each other's.
    let half = dir.join(format!(".{name}.{:016x}", crate::request::seed()));
    let mut file = std::fs::File::create_new(&half)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let placed = written.and_then(|()| std::fs::rename(&half, path));
    if placed.is_err() {
        let _it_may_not_be_there = std::fs::remove_file(&half);
    }
    placed
}
