//! The swap gate: what is refused, at which stage, and that nothing else changes.

use crate::support::gateway::built_policy;
use crate::support::guest::{DEEP, EAT, Guest, LOOP, TRAP};
use cortex::metrics::Metrics;
use cortex::policy::{GateReport, Kind, PolicyEngine, Registry, Sources, Stage, check_file};
use std::path::Path;
use std::sync::{Arc, OnceLock};

fn engine() -> Arc<PolicyEngine> {
    static ENGINE: OnceLock<Arc<PolicyEngine>> = OnceLock::new();
    ENGINE.get_or_init(|| Arc::new(PolicyEngine::new(None, 32 << 20).unwrap())).clone()
}

fn gate(bytes: &[u8], settings: &str) -> GateReport {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.wasm");
    std::fs::write(&file, bytes).unwrap();
    check_file(&engine(), &file, settings).0
}

fn check(bytes: &[u8], stage: Stage, part: &str) {
    match gate(bytes, "{}").refused {
        Some((at, error)) => {
            assert_eq!(at, stage, "{error}");
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
        None => panic!("passed, expected a refusal about {part:?}"),
    }
}

#[test]
fn bad_files_are_refused_with_stage_and_reason() {
    let good = Guest::routing();
    check(b"", Stage::Component, "not a WebAssembly file");
    check(b"#!/bin/sh", Stage::Component, "not a WebAssembly file");
    check(&good.module(), Stage::Component, "core module");
    check(&good.component()[..600], Stage::Component, "failed to parse");
    check(b"\0asm\x0d\0\x01\0", Stage::World, "does not export cortex:policy/lifecycle");
    check(&good.clone().contract("0.0.9").component(), Stage::Imports, "version 0.0.9 of the contract");
    let wasi = r#"(component (import "wasi:cli/environment@0.2.0" (instance
        (export "get-arguments" (func (result (list string)))))))"#;
    check(&wat::parse_str(wasi).unwrap(), Stage::Imports, "wasi:cli/environment@0.2.0");
    check(&wat::parse_str(wasi).unwrap(), Stage::Imports, "wasm32-unknown-unknown");
    let missing = r#"(component (import "cortex:policy/host@0.1.0" (instance (export "shutdown" (func)))))"#;
    check(&wat::parse_str(missing).unwrap(), Stage::World, "lifecycle");
}

#[test]
fn a_hundred_megabytes_are_not_even_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.wasm");
    std::fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
    let refused = check_file(&engine(), &path, "{}").0.refused.unwrap();
    assert_eq!(refused.0, Stage::Read);
    assert!(refused.1.contains("104857600 bytes, and a policy may have"), "{}", refused.1);
}

/// What the gate itself calls, sick from the first call on.
#[test]
fn sick_exports_are_found_out_before_a_request_meets_them() {
    let routing = Guest::routing();
    let cases: [(Guest, &str, Stage); 12] = [
        (routing.clone(), "lifecycle#describe", Stage::Describe),
        (routing.clone(), "lifecycle#configure", Stage::Configure),
        (routing.clone(), "lifecycle#self-test", Stage::SelfTest),
        (routing.clone(), "router#facts", Stage::Golden),
        (routing.clone(), "router#on-topology", Stage::Golden),
        (routing.clone(), "router#route", Stage::Golden),
        (Guest::eviction(), "evictor#facts", Stage::Golden),
        (Guest::eviction(), "evictor#plan", Stage::Golden),
        (Guest::translation(), "translator#endpoints", Stage::Golden),
        (Guest::translation(), "translator#[constructor]session", Stage::Golden),
        (Guest::translation(), "translator#[method]session.response", Stage::Golden),
        (Guest::learning(), "router#route", Stage::Golden),
    ];
    for (guest, export, stage) in cases {
        for (body, part) in [(TRAP, "trapped"), (LOOP, "ran longer"), (EAT, "more memory"), (DEEP, "stack")] {
            check(&guest.clone().with(export, body).component(), stage, part);
        }
    }
}

#[test]
fn good_guests_of_every_kind_pass() {
    for guest in [Guest::routing(), Guest::learning(), Guest::eviction(), Guest::translation()] {
        let refused = gate(&guest.component(), "{}").refused;
        assert!(refused.is_none(), "{refused:?}");
    }
}

#[test]
fn answers_that_make_no_sense() {
    let answer =
        |store: &str| Guest::routing().with("router#route", &format!("{store} (i32.const 64)")).component();
    // At 64 lie: ok, pick, pointer, length.
    check(&answer("(i32.store (i32.const 76) (i32.const 2))"), Stage::Golden, "node 0 twice");
    check(&answer("(i32.store (i32.const 76) (i32.const 10000000))"), Stage::Golden, "");
    check(&answer("(i32.store8 (i32.const 68) (i32.const 9))"), Stage::Golden, "trapped");
    // Rejects with a message that is not UTF-8, and with a status that is none.
    let reject = "(i32.store8 (i32.const 68) (i32.const 2)) (i32.store16 (i32.const 72) (i32.const 503))
        (i32.store (i32.const 76) (i32.const 8000)) (i32.store (i32.const 80) (i32.const 2))";
    check(
        &answer(&format!("{reject} (i32.store16 (i32.const 8000) (i32.const 0xffff))")),
        Stage::Golden,
        "trapped",
    );
    check(
        &answer(&format!("{reject} (i32.store16 (i32.const 72) (i32.const 200))")),
        Stage::Golden,
        "status 200",
    );
    // One node, none, one node …: another answer to the same call.
    let fickle = "(i32.store (i32.const 8000) (i32.add (i32.load (i32.const 8000)) (i32.const 1)))
        (i32.store (i32.const 76) (i32.and (i32.load (i32.const 8000)) (i32.const 1)))";
    check(&answer(fickle), Stage::Golden, "answers that differ");
}

#[test]
fn the_projects_own_policies_pass() {
    let check = |name: &str, kind: Kind, settings: &str| {
        let (report, generation) = check_file(&engine(), &built_policy(name), settings);
        assert!(report.refused.is_none(), "{name}: {:?}", report.refused);
        let generation = generation.unwrap();
        assert_eq!((generation.name.as_str(), generation.kind), (name, kind));
        assert_eq!(report.stages.last().unwrap().stage, Stage::Prewarm);
    };
    check("affinity", Kind::Routing, r#"{"busy_factor": 1.5}"#);
    check("lru", Kind::Eviction, "{}");
    check("priority", Kind::Eviction, "{}");
    check("anthropic", Kind::Translation, r#"{"keep_billing_header": true}"#);
}

#[test]
fn settings_that_a_policy_does_not_take_veto_it() {
    let bytes = std::fs::read(built_policy("affinity")).unwrap();
    let (stage, error) = gate(&bytes, r#"{"bussy_factor": 2}"#).refused.unwrap();
    assert_eq!(stage, Stage::Configure);
    assert!(error.contains("bussy_factor"), "{error}");
}

struct Layers {
    registry: Registry,
    dirs: [tempfile::TempDir; 2],
}

impl Layers {
    fn new() -> Self {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let registry = Registry::new(engine(), Arc::new(Metrics::new().unwrap()));
        let sources =
            Sources { dirs: dirs.iter().map(|d| d.path().to_owned()).collect(), ..Sources::default() };
        registry.configure(sources);
        Self { registry, dirs }
    }

    fn put(&self, layer: usize, bytes: &[u8]) {
        std::fs::write(self.dirs[layer].path().join("p.wasm"), bytes).unwrap();
        self.registry.rescan();
    }

    fn remove(&self, layer: usize) {
        std::fs::remove_file(self.dirs[layer].path().join("p.wasm")).unwrap();
        self.registry.rescan();
    }

    /// Where the serving file lies, and whether the newest one was refused.
    fn state(&self) -> (Option<usize>, bool) {
        let table = self.registry.table();
        let layer = |path: &Path| self.dirs.iter().position(|d| path.starts_with(d.path()));
        let refused = table.status().iter().any(|s| s.refused.is_some());
        (table.get("p", Kind::Routing).and_then(|g| layer(&g.path)), refused)
    }
}

#[test]
fn a_bad_file_never_replaces_a_good_one() {
    let layers = Layers::new();
    layers.put(0, &Guest::routing().component());
    assert_eq!(layers.state(), (Some(0), false));
    let before = layers.registry.table().get("p", Kind::Routing).unwrap().sha256.clone();
    layers.put(0, b"half a file");
    assert_eq!(layers.state(), (Some(0), true));
    assert_eq!(layers.registry.table().get("p", Kind::Routing).unwrap().sha256, before);
    // The rest of the file arrives.
    layers.put(0, &Guest::routing().padded(1, 0).component());
    assert_eq!(layers.state(), (Some(0), false));
    assert_ne!(layers.registry.table().get("p", Kind::Routing).unwrap().sha256, before);
}

#[test]
fn the_later_directory_wins_and_gives_back() {
    let layers = Layers::new();
    layers.put(0, &Guest::routing().component());
    layers.put(1, &Guest::routing().component());
    assert_eq!(layers.state(), (Some(1), false));
    layers.remove(1);
    assert_eq!(layers.state(), (Some(0), false));
    layers.remove(0);
    assert_eq!(layers.state(), (None, false));
    layers.put(1, b"junk");
    assert_eq!(layers.state(), (None, true));
    layers.put(0, &Guest::routing().component());
    assert_eq!(layers.state(), (Some(0), true));
}

#[test]
fn an_unchanged_file_is_not_swapped() {
    let layers = Layers::new();
    layers.put(0, &Guest::routing().component());
    let first = layers.registry.table();
    layers.registry.rescan();
    let again = layers.registry.table();
    assert!(Arc::ptr_eq(&first.get("p", Kind::Routing).unwrap(), &again.get("p", Kind::Routing).unwrap()));
}
