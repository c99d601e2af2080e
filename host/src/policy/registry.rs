//! The policies in force, published as one immutable table.

use super::gate::{self, GateReport, Setup, Stage};
use super::generation::{Figures, Generation, Kind};
use super::{PolicyEngine, ReplayBudget, limits, shared::Shared};
use crate::metrics::Metrics;
use arc_swap::ArcSwap;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The policies in force, by name.
#[derive(Default)]
pub struct Table {
    pub(super) by_name: BTreeMap<String, Arc<Generation>>,
    /// Files that did not pass, by name: the newest verdict.
    refused: BTreeMap<String, GateReport>,
}

impl Table {
    /// The policy of that name that is in force, where it is of that kind.
    pub fn get(&self, name: &str, kind: Kind) -> Option<Arc<Generation>> {
        self.by_name.get(name).filter(|g| g.kind == kind)?.in_force()
    }

    /// All policies of a kind that are in force, in the order of their names.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = Arc<Generation>> {
        self.by_name.values().filter(move |g| g.kind == kind).filter_map(Generation::in_force)
    }

    /// A line for each policy and each refused file.
    pub fn status(&self) -> Vec<PolicyStatus> {
        let serving = self.by_name.iter().map(|(name, g)| PolicyStatus {
            name: name.clone(),
            serving: Some(g.as_ref().into()),
            refused: self.refused.get(name).map(Refused::from),
        });
        let never = self.refused.iter().filter(|(name, _)| !self.by_name.contains_key(*name));
        let never = never.map(|(name, report)| PolicyStatus {
            name: name.clone(),
            serving: None,
            refused: Some(report.into()),
        });
        serving.chain(never).collect()
    }
}

/// A policy, for people.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyStatus {
    pub name: String,
    pub serving: Option<Serving>,
    /// The newest file of that name, where it did not pass the gate.
    pub refused: Option<Refused>,
}

/// What serves under a name.
#[derive(Debug, Clone, Serialize)]
pub struct Serving {
    pub version: String,
    pub kind: Kind,
    pub sha256: String,
    pub path: PathBuf,
    #[serde(flatten)]
    pub figures: Figures,
    /// The last good version, which serves instead while the breaker is open.
    pub rolled_back_to: Option<Box<Serving>>,
}

impl From<&Generation> for Serving {
    fn from(generation: &Generation) -> Self {
        Self {
            version: generation.version.clone(),
            kind: generation.kind,
            sha256: generation.sha256.clone(),
            path: generation.path.clone(),
            figures: generation.figures(),
            rolled_back_to: generation.rolled_back_to().map(|good| Box::new(good.as_ref().into())),
        }
    }
}

/// Where and why a file did not pass.
#[derive(Debug, Clone, Serialize)]
pub struct Refused {
    pub stage: Option<Stage>,
    pub error: String,
    pub sha256: String,
}

impl From<&GateReport> for Refused {
    fn from(report: &GateReport) -> Self {
        let (stage, error) = match &report.refused {
            Some((stage, error)) => (Some(*stage), error.clone()),
            None => (None, String::new()),
        };
        Self { stage, error, sha256: report.sha256.clone() }
    }
}

/// Where policies come from and what they are told.
#[derive(Debug, Clone, PartialEq)]
pub struct Sources {
    /// Later wins.
    pub dirs: Vec<PathBuf>,
    /// JSON by policy name.
    pub settings: BTreeMap<String, String>,
    /// Bytes of a policy's file.
    pub component_limit: u64,
}

impl Default for Sources {
    fn default() -> Self {
        Self { dirs: Vec::new(), settings: BTreeMap::new(), component_limit: limits::COMPONENT }
    }
}

/// Keeps the table up to date. Readers take [`Registry::table`] and never lock.
pub struct Registry {
    engine: Arc<PolicyEngine>,
    metrics: Arc<Metrics>,
    table: ArcSwap<Table>,
    work: Mutex<Work>,
    replay: ReplayBudget,
}

/// One file with one set of settings is tried once.
struct Attempt {
    sha256: String,
    settings: String,
    refused: Option<GateReport>,
}

/// What only a rescan looks at, one at a time.
#[derive(Default)]
struct Work {
    sources: Sources,
    shared: BTreeMap<String, Arc<Shared>>,
    /// By path: what was tried last, and what came of it.
    tried: BTreeMap<PathBuf, Attempt>,
    /// Replaced, but perhaps held by requests: dropping compiled code takes long, so the last of them
    /// must not be the one to do it.
    retired: Vec<Arc<Generation>>,
}

impl Registry {
    pub fn new(engine: Arc<PolicyEngine>, metrics: Arc<Metrics>) -> Self {
        let (table, work, replay) = (ArcSwap::default(), Mutex::default(), ReplayBudget::default());
        Self { engine, metrics, table, work, replay }
    }

    /// The table now; hold it for a request, not longer.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// What all sessions together may remember.
    pub fn replay_budget(&self) -> ReplayBudget {
        self.replay.clone()
    }

    pub(super) fn sources(&self) -> (Sources, Arc<PolicyEngine>) {
        (self.lock().sources.clone(), self.engine.clone())
    }

    pub fn dirs(&self) -> Vec<PathBuf> {
        self.lock().sources.dirs.clone()
    }

    /// Takes new directories or settings and applies them.
    pub fn configure(&self, sources: Sources) {
        self.lock().sources = sources;
        self.rescan();
    }

    /// Brings the table in line with the directories. Blocking: it reads, compiles and tries policies.
    pub fn rescan(&self) {
        let mut work = self.lock();
        let files = list(&work.sources.dirs);
        let old = self.table.load_full();
        let mut table = Table::default();
        for (name, paths) in &files {
            let (generation, refused) = self.settle(&mut work, name, paths, old.by_name.get(name));
            table.by_name.extend(generation.map(|g| (name.clone(), g)));
            table.refused.extend(refused.map(|r| (name.clone(), r)));
        }
        for name in old.by_name.keys().filter(|name| !files.contains_key(*name)) {
            tracing::info!(policy = name, "removed; the built-in answer serves");
            self.metrics.policy_swaps.with_label_values(&["removed"]).inc();
        }
        work.tried.retain(|path, _| files.values().flatten().any(|p| p == path));
        let replaced = |(name, g): (&String, &Arc<Generation>)| {
            let kept = table.by_name.get(name).is_some_and(|new| Arc::ptr_eq(new, g));
            (!kept).then(|| g.clone())
        };
        work.retired.extend(old.by_name.iter().filter_map(replaced));
        self.table.store(Arc::new(table));
        drop(old);
        work.retired.retain(|g| Arc::strong_count(g) > 1);
    }

    /// The generation that serves under `name` from now on, and the verdict on its newest file if bad.
    ///
    /// A refused file leaves what came from its own path in service; where that was another path, or
    /// nothing, the layer below is asked.
    fn settle(
        &self,
        work: &mut Work,
        name: &str,
        paths: &[PathBuf],
        current: Option<&Arc<Generation>>,
    ) -> (Option<Arc<Generation>>, Option<GateReport>) {
        let settings = work.sources.settings.get(name).cloned().unwrap_or_else(|| "{}".into());
        let mut verdict = None;
        for path in paths {
            let here = current.filter(|c| c.path == *path);
            let refused = match gate::read(path, work.sources.component_limit) {
                Err(error) => {
                    let refused = Some((Stage::Read, error));
                    GateReport { policy: name.to_owned(), sha256: String::new(), stages: vec![], refused }
                }
                Ok(bytes) => match self.try_file(work, name, path, &bytes, &settings, here) {
                    Ok(generation) => return (Some(generation), verdict),
                    Err(report) => report,
                },
            };
            verdict.get_or_insert(refused);
            if here.is_some() {
                break;
            }
        }
        (current.cloned(), verdict)
    }

    fn try_file(
        &self,
        work: &mut Work,
        name: &str,
        path: &Path,
        bytes: &[u8],
        settings: &str,
        here: Option<&Arc<Generation>>,
    ) -> Result<Arc<Generation>, GateReport> {
        let sha256 = gate::sha256(bytes);
        let known = work.tried.get(path).filter(|t| t.sha256 == sha256 && t.settings == settings);
        match (known.map(|k| &k.refused), here) {
            (Some(Some(report)), _) => return Err(report.clone()),
            (Some(None), Some(current)) => return Ok(current.clone()),
            _ => {}
        }
        let setup = Setup {
            engine: self.engine.clone(),
            shared: self.shared(work, name),
            settings: settings.to_owned(),
            footprint: Arc::default(),
            meters: Some(self.metrics.policy_meters(name)),
        };
        let (report, generation) = gate::pass(setup, path, bytes);
        if let (Some(new), Some(previous)) = (&generation, here) {
            new.follows(previous);
        }
        self.announce(&report, path);
        let refused = generation.is_none().then(|| report.clone());
        work.tried.insert(path.to_owned(), Attempt { sha256, settings: settings.to_owned(), refused });
        generation.ok_or(report)
    }

    fn announce(&self, report: &GateReport, path: &Path) {
        let (policy, sha256, path) = (&report.policy, &report.sha256, path.display());
        let micros: u64 = report.stages.iter().map(|s| s.micros).sum();
        match &report.refused {
            None => tracing::info!(policy, sha256, %path, micros, "policy is live"),
            Some((stage, error)) => {
                tracing::error!(policy, sha256, %path, ?stage, error, "policy refused; what served goes on");
            }
        }
        let outcome = if report.refused.is_none() { "ok" } else { "refused" };
        self.metrics.policy_swaps.with_label_values(&[outcome]).inc();
    }

    fn shared(&self, work: &mut Work, name: &str) -> Arc<Shared> {
        let counters = self.metrics.policy_counters.clone();
        let make = || Arc::new(Shared::new(name, Some(counters)));
        work.shared.entry(name.to_owned()).or_insert_with(make).clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// By file stem, the paths of its `*.wasm` files, the last directory's first. Dot-files are not policies.
fn list(dirs: &[PathBuf]) -> BTreeMap<String, Vec<PathBuf>> {
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for dir in dirs.iter().rev() {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "policy directory cannot be read");
                continue;
            }
        };
        for path in entries.filter_map(Result::ok).map(|e| e.path()) {
            let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
            let wasm = path.extension().is_some_and(|e| e == "wasm");
            if wasm && !stem.is_empty() && !stem.starts_with('.') && path.is_file() {
                files.entry(stem).or_default().push(path);
            }
        }
    }
    files
}
