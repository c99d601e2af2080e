//! docs/configuration.md: every key of the types in `raw`, its default, and the words of the commented examples.

use super::{Catalogue, Model, raw};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// A table of the file: its name in TOML, what it is, its keys with their defaults.
struct Section {
    name: &'static str,
    /// Of several entries.
    is_list: bool,
    about: &'static str,
    keys: Map<String, Value>,
}

fn keys(of: impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(of).unwrap() {
        Value::Object(keys) => keys,
        other => panic!("{other}"),
    }
}

fn sections() -> Vec<Section> {
    let file: raw::File = toml::from_str(
        "[[neurons]]\nname = \"\"\nendpoint = \"\"\n[[upstreams]]\nname = \"\"\nendpoint = \"\"\n\
         [[keys]]\nname = \"\"\n[[admin_keys]]\nname = \"\"\nroles = []\n",
    )
    .unwrap();
    let catalogue = Catalogue::parse(Path::new("models.toml"), "[[models]]\nid = \"o/m\"\n").unwrap();
    let model: &Model = catalogue.models().next().unwrap();
    let mut models = keys(model);
    models.entry("defaults").or_insert(Value::Null);
    models.insert("id".into(), Value::from(""));
    let section = |name, is_list, about, keys| Section { name, is_list, about, keys };
    vec![
        section("gateway", false, "Addresses, limits and times.", keys(&file.gateway)),
        section("policies", false, "Where policies come from.", keys(&file.policies)),
        section("routing", false, "Who decides where requests go.", keys(&file.routing)),
        section("eviction", false, "Who decides what makes room.", keys(&file.eviction)),
        section("telemetry", false, "Spans.", keys(&file.telemetry)),
        section("neurons", true, "One for each machine that runs neuron.", keys(&file.neurons[0])),
        section("upstreams", true, "Servers of others.", keys(&file.upstreams[0])),
        section("keys", true, "Who may ask; also in `keys_file`.", keys(&file.keys[0])),
        section("admin_keys", true, "Who may operate.", keys(&file.admin_keys[0])),
        section("models", true, "The catalogue, in models.toml.", models),
    ]
}

/// What the examples say of each key, by section and key. A line may be commented out.
fn words() -> BTreeMap<(String, String), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    let mut words = BTreeMap::new();
    for file in ["cortex.example.toml", "models.example.toml"] {
        let mut section = String::new();
        for line in std::fs::read_to_string(root.join(file)).unwrap().lines() {
            let line = line.trim_start_matches("# ");
            if line.starts_with('[') {
                section = line.trim_matches(|c| c == '[' || c == ']').to_owned();
            }
            let Some((key, rest)) = line.split_once(" = ") else { continue };
            // The last, for values have such signs in them too.
            if let Some((_, said)) = rest.rsplit_once("# ") {
                words.insert((section.clone(), key.to_owned()), said.to_owned());
            }
        }
    }
    words
}

fn page() -> String {
    let words = words();
    let mut out = String::from(
        "# Configuration\n\nEvery key of cortex.toml and models.toml with its default; made from the program's own types, which a test holds it\n\
         against. The commented examples are in [packaging/](../packaging); neuron has [a page of its own](neuron-configuration.md).\n\n\
         Keys of [gateway], [policies], [routing], [eviction] and [telemetry] can come from the environment:\n\
         `CORTEX_GATEWAY__LISTEN`. The console's page Config shows what is in force and where it came from. A key that does not\n\
         exist is refused with its file, its line and the nearest that does.\n",
    );
    for Section { name, is_list, about, keys } in sections() {
        let head = if is_list { format!("[[{name}]]") } else { format!("[{name}]") };
        let _infallible = write!(out, "\n## {head}\n\n{about}\n\n| key | default | |\n|---|---|---|\n");
        for (key, value) in keys {
            let said = words.get(&(name.to_owned(), key.clone()));
            let said = said.unwrap_or_else(|| panic!("say in the example what {head} {key} is, behind a #"));
            let value = match &value {
                Value::Null => String::new(),
                Value::String(text) if text.is_empty() => String::new(),
                Value::Array(all) if all.is_empty() => String::new(),
                Value::Object(all) if all.is_empty() => String::new(),
                value => format!("`{value}`"),
            };
            let _infallible = writeln!(out, "| `{key}` | {value} | {} |", said.replace('|', "\\|"));
        }
    }
    out
}

#[test]
fn the_reference_is_what_the_types_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let page = page();
    if std::env::var_os("CORTEX_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == page,
        "docs/configuration.md is stale: CORTEX_WRITE_DOCS=1 cargo test -p cortex --lib reference"
    );
}
