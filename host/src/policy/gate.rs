//! The swap gate: what a file must pass before a request sees it. Any failure leaves things as they were.

use super::bindings::any::{Policy as Any, PolicyPre as AnyPre};
use super::bindings::{
    eviction::EvictionPolicyPre, learning::LearningRoutingPolicyPre, routing::RoutingPolicyPre,
    translation::TranslationPolicyPre, upstream::UpstreamPolicyPre,
};
use super::footprint::Footprint;
use super::generation::{About, Generation, Judge, Kind};
use super::instance::{Instance, Problem, store};
use super::learner::Learner;
use super::router::RoutingPolicy;
use super::translator::{TranslationPolicy, UpstreamPolicy};
use super::{Declined, PolicyEngine, evictor::EvictionPolicy, golden, limits, shared::Shared};
use crate::metrics::PolicyMeters;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use wasmtime::component::Component;

/// The stages in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Read,
    Component,
    Imports,
    World,
    Instantiate,
    Describe,
    Configure,
    SelfTest,
    /// Calls such as requests make, with known right answers or none that is wrong.
    Golden,
    Prewarm,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Read => "read",
            Self::Component => "component",
            Self::Imports => "imports",
            Self::World => "world",
            Self::Instantiate => "instantiate",
            Self::Describe => "describe",
            Self::Configure => "configure",
            Self::SelfTest => "self-test",
            Self::Golden => "golden",
            Self::Prewarm => "prewarm",
        })
    }
}

/// How long a stage took.
#[derive(Debug, Clone, Serialize)]
pub struct StageTime {
    pub stage: Stage,
    pub micros: u64,
}

/// What became of one file.
#[derive(Debug, Clone, Serialize)]
pub struct GateReport {
    pub policy: String,
    pub sha256: String,
    pub stages: Vec<StageTime>,
    /// The stage that failed, and why.
    pub refused: Option<(Stage, String)>,
}

/// What every instance of a policy is made with.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) engine: Arc<PolicyEngine>,
    pub(super) shared: Arc<Shared>,
    /// JSON.
    pub(super) settings: String,
    pub(super) footprint: Arc<Footprint>,
    /// Absent while a policy is only tried.
    pub(super) meters: Option<PolicyMeters>,
}

impl Setup {
    /// Apart from everything that serves: a store, counters and figures of its own.
    pub(super) fn apart(engine: &Arc<PolicyEngine>, name: &str, settings: &str) -> Self {
        Self {
            engine: engine.clone(),
            shared: Arc::new(Shared::new(name, None)),
            settings: settings.to_owned(),
            footprint: Arc::default(),
            meters: None,
        }
    }
}

type Refused = (Stage, String);

/// Reads a file and puts it through the gate without publishing it.
pub fn check_file(
    engine: &Arc<PolicyEngine>,
    path: &Path,
    settings: &str,
) -> (GateReport, Option<Arc<Generation>>) {
    let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let started = Instant::now();
    let bytes = match read(path, limits::COMPONENT_AT_MOST) {
        Ok(bytes) => bytes,
        Err(error) => {
            let refused = Some((Stage::Read, error));
            return (GateReport { policy: name, sha256: String::new(), stages: Vec::new(), refused }, None);
        }
    };
    let setup = Setup::apart(engine, &name, settings);
    let (mut report, generation) = pass(setup, path, &bytes);
    report.stages.insert(0, StageTime { stage: Stage::Read, micros: started.elapsed().as_micros() as u64 });
    (report, generation)
}

/// The file, at most `limit` bytes of it. An error is a sentence.
///
/// The name is opened once, so a link that is changed meanwhile makes no difference, and a file that
/// grows meanwhile is seen to: what it becomes is another look's business.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let mut file = File::open(path).map_err(|e| e.to_string())?;
    let before = file.metadata().map_err(|e| e.to_string())?.len();
    let too_large = |size: u64| format!("{size} bytes, and a policy may have {limit}");
    if before > limit {
        return Err(too_large(before));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(before).unwrap_or(0) + 1);
    file.by_ref().take(limit + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let after = file.metadata().map_err(|e| e.to_string())?.len();
    if after > limit {
        return Err(too_large(after));
    }
    if bytes.len() as u64 != before || after != before {
        return Err("it changed while it was read; the next look takes it whole".into());
    }
    Ok(bytes)
}

/// Lower-case hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Everything between the bytes and a generation that is ready to serve.
pub(super) fn pass(setup: Setup, path: &Path, bytes: &[u8]) -> (GateReport, Option<Arc<Generation>>) {
    let mut clock = Clock { stages: Vec::new() };
    let sha256 = sha256(bytes);
    let name = setup.shared.name.clone();
    let outcome = stages(&mut clock, setup, path, bytes, &sha256);
    let (generation, refused) = match outcome {
        Ok(generation) => (Some(Arc::new(generation)), None),
        Err(refused) => (None, Some(refused)),
    };
    (GateReport { policy: name, sha256, stages: clock.stages, refused }, generation)
}

struct Clock {
    stages: Vec<StageTime>,
}

impl Clock {
    fn run<T>(&mut self, stage: Stage, work: impl FnOnce() -> Result<T, String>) -> Result<T, Refused> {
        let started = Instant::now();
        let outcome = work();
        self.stages.push(StageTime { stage, micros: started.elapsed().as_micros() as u64 });
        outcome.map_err(|error| (stage, error))
    }
}

fn stages(
    clock: &mut Clock,
    setup: Setup,
    path: &Path,
    bytes: &[u8],
    sha256: &str,
) -> Result<Generation, Refused> {
    let engine = setup.engine.clone();
    let component = clock.run(Stage::Component, || compile(&engine, bytes))?;
    clock.run(Stage::Imports, || check_imports(&engine, &component))?;
    let kind = clock.run(Stage::World, || world(&engine, &component))?;

    let trial = Setup::apart(&engine, &setup.shared.name, &setup.settings);
    let mut tried = clock.run(Stage::Instantiate, || trial_instance(&trial, &component).map_err(said))?;
    let about = clock.run(Stage::Describe, || {
        tried
            .call(limits::SETUP, |b, s| b.cortex_policy_lifecycle().call_describe(s))
            .map_err(|e| e.to_string())
    })?;
    clock.run(Stage::Configure, || {
        tried
            .call(limits::SETUP, |b, s| b.cortex_policy_lifecycle().call_configure(s, &setup.settings))
            .map_err(|e| e.to_string())?
            .map_err(|e| Declined::from(e).to_string())
    })?;
    clock.run(Stage::SelfTest, || {
        tried
            .call(limits::SETUP, |b, s| b.cortex_policy_lifecycle().call_self_test(s))
            .map_err(|e| e.to_string())?
            .map_err(|e| Declined::from(e).to_string())
    })?;
    drop(tried);
    clock.run(Stage::Golden, || {
        golden::check(&judge(kind, trial.clone(), &component).map_err(said)?).map_err(said)
    })?;
    let judge = clock.run(Stage::Prewarm, || judge(kind, setup.clone(), &component).map_err(said))?;
    let about = About {
        name: setup.shared.name.clone(),
        version: bounded(about.version),
        kind,
        sha256: sha256.to_owned(),
        path: path.to_owned(),
    };
    Ok(Generation::new(about, judge, setup))
}

/// What a policy says of itself goes to logs and tables: a line, not a book.
fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(64));
    text.replace(char::is_control, " ")
}

fn said(problem: Problem) -> String {
    problem.to_string()
}

fn compile(engine: &PolicyEngine, bytes: &[u8]) -> Result<Component, String> {
    const MAGIC: &[u8] = b"\0asm";
    match (bytes.starts_with(MAGIC), bytes.get(4..8)) {
        (false, _) => return Err("not a WebAssembly file".into()),
        (true, Some([1, 0, 0, 0])) => {
            return Err("a core module, not a component; `cargo xtask build-policies` or \
                        `wasm-tools component new` makes a component of it"
                .into());
        }
        _ => {}
    }
    Component::new(&engine.engine, bytes).map_err(|e| format!("{e:#}"))
}

fn check_imports(engine: &PolicyEngine, component: &Component) -> Result<(), String> {
    const ALLOWED: [&str; 2] = ["cortex:policy/host@0.1.", "cortex:policy/types@0.1."];
    let kind = component.component_type();
    let foreign: Vec<&str> = kind
        .imports(&engine.engine)
        .map(|(name, _)| name)
        .filter(|name| !ALLOWED.iter().any(|allowed| name.starts_with(allowed)))
        .collect();
    if foreign.is_empty() {
        return Ok(());
    }
    if let Some(version) =
        foreign.iter().find_map(|name| name.strip_prefix("cortex:policy/")?.split_once('@'))
    {
        return Err(other_version(version.1));
    }
    let hint = if foreign.iter().any(|name| name.starts_with("wasi:")) {
        "; build for wasm32-unknown-unknown, which needs no WASI"
    } else {
        ""
    };
    Err(format!("it imports {}, and a policy may import only cortex:policy/host{hint}", foreign.join(", ")))
}

fn other_version(version: &str) -> String {
    format!("it is made for version {version} of the contract, and this gateway serves 0.1: build it anew")
}

fn world(engine: &PolicyEngine, component: &Component) -> Result<Kind, String> {
    let kind = component.component_type();
    let exports: Vec<&str> = kind.exports(&engine.engine).map(|(name, _)| name).collect();
    let has =
        |interface: &str| exports.iter().any(|e| e.starts_with(&format!("cortex:policy/{interface}@0.1.")));
    if !has("lifecycle") {
        let other = exports.iter().find_map(|e| e.strip_prefix("cortex:policy/lifecycle@"));
        return Err(match other {
            Some(version) => other_version(version),
            None => "it does not export cortex:policy/lifecycle@0.1.0".into(),
        });
    }
    let kinds = [
        ("router", Kind::Routing),
        ("evictor", Kind::Eviction),
        ("translator", Kind::Translation),
        ("upstream-dialect", Kind::Upstream),
    ];
    let found: Vec<Kind> =
        kinds.iter().filter(|(interface, _)| has(interface)).map(|(_, kind)| *kind).collect();
    match found.as_slice() {
        [kind] => Ok(*kind),
        [] => {
            Err("it exports none of router, evictor, translator, upstream-dialect of cortex:policy@0.1.0"
                .into())
        }
        _ => Err("it exports more than one of router, evictor, translator, upstream-dialect".into()),
    }
}

fn trial_instance(setup: &Setup, component: &Component) -> Result<Instance<Any>, Problem> {
    let pre = setup.engine.linker.instantiate_pre(component).and_then(AnyPre::new).map_err(mismatch)?;
    Instance::new(store(setup, limits::MEMORY), |store| pre.instantiate(store))
}

fn mismatch(error: wasmtime::Error) -> Problem {
    super::Fault::Invalid(format!("it does not fit cortex:policy@0.1.0: {error:#}")).into()
}

fn judge(kind: Kind, setup: Setup, component: &Component) -> Result<Judge, Problem> {
    let pre = setup.engine.linker.instantiate_pre(component).map_err(mismatch)?;
    Ok(match kind {
        Kind::Routing => {
            let learns = component
                .component_type()
                .exports(&setup.engine.engine)
                .any(|(name, _)| name.starts_with("cortex:policy/learner@0.1."));
            let learner = match learns {
                true => {
                    let pre = LearningRoutingPolicyPre::new(pre.clone()).map_err(mismatch)?;
                    Some(Learner::new(pre, setup.clone()))
                }
                false => None,
            };
            let pre = RoutingPolicyPre::new(pre).map_err(mismatch)?;
            Judge::Routing(Box::new(RoutingPolicy::new(pre, setup, learner)?))
        }
        Kind::Eviction => {
            let pre = EvictionPolicyPre::new(pre).map_err(mismatch)?;
            Judge::Eviction(Box::new(EvictionPolicy::new(pre, setup)?))
        }
        Kind::Translation => {
            let pre = TranslationPolicyPre::new(pre).map_err(mismatch)?;
            Judge::Translation(Box::new(TranslationPolicy::new(pre, setup)?))
        }
        Kind::Upstream => {
            let pre = UpstreamPolicyPre::new(pre).map_err(mismatch)?;
            Judge::Upstream(Box::new(UpstreamPolicy::new(pre, setup)))
        }
    })
}
