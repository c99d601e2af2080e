//! docs/neuron-configuration.md: every key of the types in `raw`, its default, and the words of the commented example.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use serde::Serialize;
use serde_json::{Map, Value};

use super::raw;

/// Of tables that a user names, one word stands for all.
const SOURCES: &str = "sources.NAME";

fn keys(of: impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(of).unwrap() {
        Value::Object(keys) => keys,
        other => panic!("{other}"),
    }
}

/// Name in TOML, what it is, and keys with their defaults.
fn sections() -> Vec<(&'static str, &'static str, Map<String, Value>)> {
    let text = "[[neuron.tokens]]\nname = \"\"\ntoken_env = \"\"\nscopes = []\n[sources.x]\n";
    let file: raw::File = toml::from_str(text).unwrap();
    let token = keys(&file.neuron.tokens[0]);
    let mut top = Map::new();
    top.insert("default_source".to_owned(), file.default_source.clone().into());
    let mut neuron = keys(&file.neuron);
    neuron.remove("tokens");
    vec![
        ("", "Before any table.", top),
        ("neuron", "The daemon.", neuron),
        ("neuron.tokens", "Others who may ask, one table each.", token),
        ("engine", "What computes, and how much of it.", keys(&file.engine)),
        (
            SOURCES,
            "Where models come from. `huggingface` is there without being named; a name here is what stands before the colon in `NAME:org/model`.",
            keys(&file.sources["x"]),
        ),
    ]
}

/// What the example says of each key: behind it, or in the lines before it. A key may be an example itself ("#:").
fn words() -> BTreeMap<(String, String), String> {
    let (mut words, mut section, mut before) = (BTreeMap::new(), String::new(), String::new());
    for line in include_str!("../../../packaging/neuron.example.toml").lines() {
        let line = match (line.strip_prefix("#: "), line.strip_prefix("# ")) {
            (Some(example), _) => example,
            (None, Some(said)) => {
                before += if before.is_empty() { "" } else { " " };
                before += said;
                continue;
            }
            (None, None) => line,
        };
        if let Some(table) = line.strip_prefix('[') {
            table.trim_matches(['[', ']']).clone_into(&mut section);
            if section.starts_with("sources.") {
                SOURCES.clone_into(&mut section);
            }
        } else if let Some((key, value)) = line.split_once(" = ") {
            let said = value.split_once(" # ").map_or(before.as_str(), |(_, said)| said.trim());
            if !said.is_empty() {
                words.entry((section.clone(), key.to_owned())).or_insert_with(|| said.to_owned());
            }
        }
        before.clear();
    }
    words
}

fn page() -> String {
    let words = words();
    let mut out = String::from(
        "# Configuration of neuron\n\nEvery key of neuron.toml with its default; made from the program's own types, which a test holds it against. The\n\
         commented example is [neuron.example.toml](../packaging/neuron.example.toml). Every key is optional, but for those of a\n\
         `[[neuron.tokens]]`. A key that does not exist is refused with its line and the nearest that does; `neuron check` says\n\
         what is wrong.\n",
    );
    for (name, about, keys) in sections() {
        let head = match name {
            "" => "Top".to_owned(),
            "neuron.tokens" => format!("[[{name}]]"),
            _ => format!("[{name}]"),
        };
        let _infallible = write!(out, "\n## {head}\n\n{about}\n\n| key | default | |\n|---|---|---|\n");
        for (key, value) in keys {
            let said = words.get(&(name.to_owned(), key.clone()));
            let said = said.unwrap_or_else(|| panic!("say in the example what {head} {key} is, behind a #"));
            let value = match &value {
                Value::Null => String::new(),
                Value::String(text) if text.is_empty() => String::new(),
                Value::Array(all) if all.is_empty() => String::new(),
                value => format!("`{value}`"),
            };
            let _infallible = writeln!(out, "| `{key}` | {value} | {} |", said.replace('|', "\\|"));
        }
    }
    out
}

#[test]
fn what_an_absent_key_means_is_as_it_is_said() {
    let words = words();
    let said = |key: &str| words[&(SOURCES.to_owned(), key.to_owned())].clone();
    assert!(said("stall_secs").ends_with(&format!("absent: {}.", super::source::STALL_SECS)));
    let connections =
        format!("from 1 to {}; absent: {}.", super::source::MAX_CONNECTIONS, super::source::CONNECTIONS);
    assert!(said("connections").ends_with(&connections));
}

#[test]
fn the_reference_is_what_the_types_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/neuron-configuration.md");
    let page = page();
    if std::env::var_os("CORTEX_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == page,
        "docs/neuron-configuration.md is stale: CORTEX_WRITE_DOCS=1 cargo test -p neuron --lib reference"
    );
}
