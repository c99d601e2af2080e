//! Files in golden/ through the translation; `INSTA_UPDATE=always cargo test` writes what comes of them anew.

use crate::session::Session;
use crate::settings::Settings;
use std::path::Path;

fn each(folder: &str, check: impl Fn(&str, Vec<u8>)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e != "snap"));
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        check(file.file_stem().unwrap().to_str().unwrap(), std::fs::read(&file).unwrap());
    }
}

fn same(folder: &str, name: &str, got: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(folder));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, got));
}

/// With its keys in their order, which is part of a prompt.
fn pretty(json: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(json).unwrap();
    serde_json::to_string_pretty(&value).unwrap()
}

/// A session that was asked this.
fn asked(body: &[u8]) -> (Session, Vec<u8>) {
    let settings = Settings::read(r#"{"default_effort":"low"}"#).unwrap();
    let mut session = Session::new(0, 7, settings);
    let (path, native) = session.request(body).unwrap();
    assert_eq!(path, "/v1/chat/completions");
    (session, native)
}

fn plain() -> Session {
    asked(br#"{"model":"m","input":"hi"}"#).0
}

#[test]
fn requests() {
    each("requests", |name, body| same("requests", name, &pretty(&asked(&body).1)));
}

#[test]
fn answers() {
    each("answers", |name, body| same("answers", name, &pretty(&plain().response(200, &body).unwrap())));
}

/// Event by event, and all in one piece: the same.
#[test]
fn streams() {
    each("streams", |name, sse| {
        let (mut session, mut whole) = (plain(), plain());
        let mut out = Vec::new();
        for event in String::from_utf8(sse.clone()).unwrap().split_inclusive("\n\n") {
            out.extend(session.events(event.as_bytes()));
        }
        out.extend(session.finish());
        let at_once = [whole.events(&sse), whole.finish()].concat();
        assert_eq!(String::from_utf8(at_once).unwrap(), String::from_utf8(out.clone()).unwrap());
        same("streams", name, &String::from_utf8(out).unwrap());
    });
}
