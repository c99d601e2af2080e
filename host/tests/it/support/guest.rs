//! Policies that misbehave, written in WebAssembly text: well-behaved ones of every kind, any of whose
//! functions a test may replace.

use std::collections::BTreeMap;
use std::path::Path;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A policy in the making.
#[derive(Clone)]
pub struct Guest {
    world: &'static str,
    package: String,
    bodies: BTreeMap<&'static str, String>,
    imports: String,
    data: String,
    pages: u32,
}

/// Traps on every call.
pub const TRAP: &str = "unreachable";
/// Never returns.
pub const LOOP: &str = "(loop $again (br $again)) unreachable";
/// Takes memory until the host says no, then gives up.
pub const EAT: &str =
    "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 64)) (i32.const -1)))) unreachable";
/// Calls itself until the stack is used up.
pub const DEEP: &str = "(call $deep) unreachable";

/// An `ok` without a payload; the metadata; the decision "pick node 0"; no facts wanted.
const OK: &str = "(i32.const 32)";
const ABOUT: &str = "(i32.const 0)";
const PICK_FIRST: &str = "(i32.const 64)";
const NO_FACTS: &str = "(i32.const 48)";

/// Names, parameters and results of what each world exports, with a good body.
type Export = (&'static str, &'static str, &'static str, &'static str);

const LIFECYCLE: [Export; 3] = [
    ("lifecycle#describe", "", "(result i32)", ABOUT),
    ("lifecycle#configure", "i32 i32", "(result i32)", OK),
    ("lifecycle#self-test", "", "(result i32)", OK),
];
const ROUTER: [Export; 3] = [
    ("router#facts", "", "(result i32)", NO_FACTS),
    ("router#on-topology", "i64 i32 i32", "", ""),
    ("router#route", "i64 i32 i32 i32 i32 i32 i64 i64 i64 i32 i32 i32 i32", "(result i32)", PICK_FIRST),
];
const LEARNER: [Export; 1] = [("learner#on-outcomes", "i32 i32", "", "")];
const EVICTOR: [Export; 2] = [
    ("evictor#facts", "", "(result i32)", NO_FACTS),
    // No victims.
    ("evictor#plan", "i32 i32 i32 i32 i32 i32 i64 i64 i32 i32 i32 i32", "(result i32)", "(i32.const 48)"),
];
/// Passes everything on: POST /v1/p becomes POST /v1/chat/completions.
const TRANSLATOR: [Export; 7] = [
    ("translator#endpoints", "", "(result i32)", "(i32.const 112)"),
    ("translator#[constructor]session", "i32 i64", "(result i32)", "(call $new (i32.const 1))"),
    (
        "translator#[method]session.request",
        "i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32",
        "(result i32)",
        "(i32.store (i32.const 1000) (i32.const 0))
         (i32.store (i32.const 1004) (i32.const 224)) (i32.store (i32.const 1008) (i32.const 4))
         (i32.store (i32.const 1012) (i32.const 256)) (i32.store (i32.const 1016) (i32.const 20))
         (i32.store (i32.const 1020) (i32.const 0)) (i32.store (i32.const 1024) (i32.const 0))
         (i32.store (i32.const 1028) (i32.const 0)) (i32.store (i32.const 1032) (i32.const 0))
         (i32.store (i32.const 1036) (local.get 9)) (i32.store (i32.const 1040) (local.get 10))
         (i32.const 1000)",
    ),
    (
        "translator#[method]session.response",
        "i32 i32 i32 i32 i32 i32",
        "(result i32)",
        "(i32.store (i32.const 1000) (i32.const 0))
         (i32.store16 (i32.const 1004) (local.get 1))
         (i32.store (i32.const 1008) (local.get 2)) (i32.store (i32.const 1012) (local.get 3))
         (i32.store (i32.const 1016) (local.get 4)) (i32.store (i32.const 1020) (local.get 5))
         (i32.const 1000)",
    ),
    (
        "translator#[method]session.events",
        "i32 i32 i32",
        "(result i32)",
        "(i32.store (i32.const 1000) (i32.const 0))
         (i32.store (i32.const 1004) (local.get 1)) (i32.store (i32.const 1008) (local.get 2))
         (i32.const 1000)",
    ),
    ("translator#[method]session.finish", "i32 i32", "(result i32)", "(i32.const 32)"),
    ("translator#[method]session.keep-alive", "i32", "(result i32)", NO_FACTS),
];

impl Guest {
    pub fn routing() -> Self {
        Self::new("routing-policy", &[&LIFECYCLE, &ROUTER])
    }

    pub fn learning() -> Self {
        Self::new("learning-routing-policy", &[&LIFECYCLE, &ROUTER, &LEARNER])
    }

    pub fn eviction() -> Self {
        Self::new("eviction-policy", &[&LIFECYCLE, &EVICTOR])
    }

    pub fn translation() -> Self {
        let new = r#"(import "[export]cortex:policy/translator@0.1.0" "[resource-new]session"
            (func $new (param i32) (result i32)))"#;
        Self::new("translation-policy", &[&LIFECYCLE, &TRANSLATOR]).importing(new)
    }

    fn new(world: &'static str, exports: &[&[Export]]) -> Self {
        let bodies = exports.iter().copied().flatten().map(|(name, _, _, body)| (*name, (*body).to_owned()));
        let (imports, data) = (String::new(), String::new());
        Self { world, package: "0.1.0".into(), bodies: bodies.collect(), imports, data, pages: 2 }
    }

    /// Another body for the export.
    pub fn with(mut self, export: &str, body: &str) -> Self {
        let slot = self.bodies.iter_mut().find(|(name, _)| **name == export);
        *slot.unwrap_or_else(|| panic!("there is no {export}")).1 = body.to_owned();
        self
    }

    /// `then`, before the export's usual body, where a request is not the gate's own: its model is not "gate".
    pub fn sick(self, then: &str) -> Self {
        self.with(
            "router#route",
            &format!("(if (i32.ne (local.get 2) (i32.const 4)) (then {then})) {PICK_FIRST}"),
        )
    }

    /// More imports of the core module.
    pub fn importing(mut self, imports: &str) -> Self {
        self.imports.push_str(imports);
        self
    }

    /// Something that makes it another file, and so many bytes larger.
    pub fn padded(mut self, mark: u32, bytes: usize) -> Self {
        self.data = format!(r#"(data (i32.const 70000) "{mark}{}")"#, "x".repeat(bytes));
        self.pages = self.pages.max(2 + bytes as u32 / 65_536 + 1);
        self
    }

    /// Another version of the contract.
    pub fn contract(mut self, version: &str) -> Self {
        self.package = version.into();
        self
    }

    /// The core module. Fixed answers lie in its data; memory from 8000 on is a test's own.
    pub fn module(&self) -> Vec<u8> {
        let Self { bodies, imports, data, pages, package, .. } = self;
        let all = [&LIFECYCLE[..], &ROUTER, &LEARNER, &EVICTOR, &TRANSLATOR].concat();
        let exports: String = bodies
            .iter()
            .map(|(name, body)| {
                let (_, params, result, _) = all.iter().find(|e| e.0 == *name).unwrap();
                let (interface, function) = name.split_once('#').unwrap();
                let params = if params.is_empty() { String::new() } else { format!("(param {params})") };
                format!("(func (export \"cortex:policy/{interface}@{package}#{function}\") {params} {result} {body})\n")
            })
            .collect();
        let text = format!(
            r#"(module
              {imports}
              (memory (export "memory") {pages})
              (global $top (mut i32) (i32.const 16384))
              (data (i32.const 0) "\c0\00\00\00\01\00\00\00\c0\00\00\00\01\00\00\00\c0\00\00\00\00\00\00\00")
              (data (i32.const 32) "\00\00\00\00\00\00\00\00\00\00\00\00")
              (data (i32.const 48) "\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00")
              (data (i32.const 64) "\00\00\00\00\00\00\00\00\60\00\00\00\01\00\00\00")
              (data (i32.const 96) "\00\00")
              (data (i32.const 112) "\80\00\00\00\01\00\00\00")
              (data (i32.const 128) "\e0\00\00\00\04\00\00\00\e8\00\00\00\05\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00")
              (data (i32.const 192) "g")
              (data (i32.const 224) "POST")
              (data (i32.const 232) "/v1/p")
              (data (i32.const 256) "/v1/chat/completions")
              {data}
              (func $deep (result i32) (local i64 i64 i64 i64)
                (i32.add (call $deep) (i32.wrap_i64 (local.get 0))))
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
                (global.set $top (i32.add (local.get $at) (local.get 3)))
                ;; Starts over when the page is used up: nothing here outlives a call.
                (if (i32.gt_u (global.get $top) (i32.const 65000)) (then
                  (local.set $at (i32.const 16384)) (global.set $top (i32.add (i32.const 16384) (local.get 3)))))
                (local.get $at))
              {exports}
            )"#
        );
        wat::parse_str(text).unwrap()
    }

    pub fn component(&self) -> Vec<u8> {
        let mut resolve = Resolve::default();
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
        let package = if self.package == "0.1.0" {
            resolve.push_dir(wit).unwrap().0
        } else {
            let older = tempfile::tempdir().unwrap();
            for file in std::fs::read_dir(wit).unwrap().map(|f| f.unwrap().path()) {
                let text = std::fs::read_to_string(&file).unwrap();
                let text = text.replace("cortex:policy@0.1.0", &format!("cortex:policy@{}", self.package));
                std::fs::write(older.path().join(file.file_name().unwrap()), text).unwrap();
            }
            resolve.push_dir(older.path()).unwrap().0
        };
        let world = resolve.select_world(&[package], Some(self.world)).unwrap();
        let mut module = self.module();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
        ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
    }
}

/// Every `n`-th call of an instance only: memory 8000 counts them.
pub fn every(n: u32, then: &str) -> String {
    format!(
        "(i32.store (i32.const 8000) (i32.add (i32.load (i32.const 8000)) (i32.const 1)))
         (if (i32.eqz (i32.rem_u (i32.load (i32.const 8000)) (i32.const {n}))) (then {then}))"
    )
}
