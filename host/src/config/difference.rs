//! What a reload changes, line by line: `+` is new, `-` goes, `~` is another, `!` is to be looked at.

use super::{Config, Model, NodeConfig, Serves, Setting};
use serde_json::Value;
use std::collections::BTreeMap;

/// Characters of a value that are shown.
const VALUE: usize = 120;

impl Config {
    /// From `self` to `new`. `status`: what the gateway says of its nodes, to say what is affected there; `Null` where that
    /// is not known.
    pub fn differences(&self, new: &Self, status: &Value) -> Vec<String> {
        let mut lines = nodes(&self.nodes, &new.nodes, status);
        lines.extend(models(self, new, status));
        let keys = |config: &Self| config.keys.iter().map(|key| key.name.clone()).collect::<Vec<_>>();
        let (had, has) = (keys(self), keys(new));
        lines.extend(has.iter().filter(|name| !had.contains(name)).map(|name| format!("+ key {name}")));
        lines.extend(had.iter().filter(|name| !has.contains(name)).map(|name| format!("- key {name}")));
        for name in has.iter().filter(|name| had.contains(name)) {
            if self.keys.secrets(name) != new.keys.secrets(name) {
                lines.push(format!("~ key {name}: another secret"));
            }
        }
        for name in self.admin_keys.names().intersection(&new.admin_keys.names()) {
            if self.admin_keys.secrets(name) != new.admin_keys.secrets(name) {
                lines.push(format!("~ admin key {name}: another secret"));
            }
        }
        if !self.keys.is_empty() && new.keys.is_empty() {
            lines.push("! a reload refuses to remove all keys; to mean that, restart".into());
        }
        let values = values(&self.settings, &new.settings);
        let rest = self.changes(new).into_iter().filter(|what| !is_told(what, &lines, &values));
        let rest: Vec<String> = rest.map(|what| format!("~ {what}")).collect();
        lines.extend(values);
        lines.extend(rest);
        lines.extend(new.doubts().into_iter().map(|doubt| format!("! {doubt}")));
        lines
    }
}

/// Settings by their keys, from what to what; those of nodes and whole keys are told by name.
fn values(old: &[Setting], new: &[Setting]) -> Vec<String> {
    let by_key = |of: &[Setting]| -> BTreeMap<String, Value> {
        let told = |key: &str| key.starts_with("neurons.") || key.starts_with("upstreams.");
        of.iter().filter(|s| !told(&s.key)).map(|s| (s.key.clone(), s.value.clone())).collect()
    };
    let (old, new) = (by_key(old), by_key(new));
    // `keys.NAME.…` of one that is new or gone.
    let entry = |key: &str| key.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let has = |of: &BTreeMap<String, Value>, key: &str| {
        let entry = entry(key) + ".";
        !key.starts_with("keys.") || of.keys().any(|other| other.starts_with(&entry))
    };
    let names = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
    let differ = names.filter(|key| old.get(*key) != new.get(*key) && has(&old, key) && has(&new, key));
    let shown = |value: Option<&Value>| match value {
        None | Some(Value::Null) => "nothing".to_owned(),
        Some(value) => {
            let text = value.to_string();
            match text.char_indices().nth(VALUE) {
                Some((end, _)) => text[..end].to_owned() + "…",
                None => text,
            }
        }
    };
    differ.map(|key| format!("~ {key} {} -> {}", shown(old.get(key)), shown(new.get(key)))).collect()
}

/// Whether a line has said already what one of [`Config::changes`] says.
fn is_told(what: &str, lines: &[String], values: &[String]) -> bool {
    let starts = |with: &str| values.iter().any(|line| line[2..].starts_with(with));
    match what {
        "catalogue" | "neurons and upstreams" | "which files are read" => true,
        "keys" => starts("keys.") || lines.iter().any(|line| line[1..].starts_with(" key ")),
        "admin_keys" => {
            starts("admin_keys.") || lines.iter().any(|line| line[1..].starts_with(" admin key "))
        }
        "policy directories or settings" => starts("policies."),
        "routing policy" | "shadow policy" | "canary" | "recording of decisions" => starts("routing."),
        "eviction strategy" => starts("eviction."),
        _ => starts(&format!("{what} ")) || starts(&format!("{what}.")),
    }
}

fn nodes(old: &[NodeConfig], new: &[NodeConfig], status: &Value) -> Vec<String> {
    let by_name = |of: &[NodeConfig], name: &str| of.iter().find(|n| n.name == name).cloned();
    let kind = |node: &NodeConfig| if node.serves == Serves::Neuron { "neuron" } else { "upstream" };
    let mut lines = Vec::new();
    for node in new {
        let (name, endpoint, kind) = (&node.name, &node.access.endpoint, kind(node));
        match by_name(old, name) {
            None => lines.push(format!("+ {kind} {name} at {endpoint}")),
            Some(was) if was.access.endpoint != *endpoint => {
                lines.push(format!("~ {kind} {name}: from {} to {endpoint}", was.access.endpoint));
            }
            Some(was) if was.access != node.access => {
                lines.push(format!("~ {kind} {name}: another token, header or certificate"));
            }
            Some(was) if was != *node => lines.push(format!("~ {kind} {name}: other models")),
            Some(_) => {}
        }
    }
    for gone in old.iter().filter(|n| by_name(new, &n.name).is_none()) {
        let node = status["nodes"].as_array().into_iter().flatten().find(|n| n["name"] == gone.name.as_str());
        let models = node.and_then(|n| n["models"].as_array()).map_or(0, Vec::len);
        let effect = match models {
            0 => String::new(),
            n => format!(": {n} models there are not used any more, and what runs there goes on"),
        };
        lines.push(format!("- {} {}{effect}", kind(gone), gone.name));
    }
    lines
}

fn models(old: &Config, new: &Config, status: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for model in new.catalogue.models() {
        match old.catalogue.get(&model.id) {
            None => lines.push(format!("+ model {}", model.id)),
            Some(was) if was != model => {
                lines.push(format!("~ model {}: {}", model.id, differences(was, model).join(", ")));
            }
            Some(_) => {}
        }
    }
    for gone in old.catalogue.models().filter(|m| new.catalogue.get(&m.id).is_none()) {
        let is_it = |n: &&Value| {
            n["models"].as_array().is_some_and(|all| {
                all.iter().any(|m| m["id"] == gone.node_id().as_str() || m["id"] == gone.id.as_str())
            })
        };
        let on: Vec<&str> = status["nodes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(is_it)
            .filter_map(|n| n["name"].as_str())
            .collect();
        let effect = match on.is_empty() {
            true => String::new(),
            false => {
                format!(": stays on {} until its place is wanted, and is not loaded again", on.join(", "))
            }
        };
        lines.push(format!("- model {}{effect}", gone.id));
    }
    let aliases = |config: &Config| -> Vec<(String, String)> {
        config.catalogue.aliases().map(|(a, m)| (a.to_owned(), m.to_owned())).collect()
    };
    let (had, has) = (aliases(old), aliases(new));
    lines
        .extend(has.iter().filter(|a| !had.contains(a)).map(|(alias, id)| format!("+ alias {alias} = {id}")));
    lines
        .extend(had.iter().filter(|a| !has.contains(a)).map(|(alias, id)| format!("- alias {alias} = {id}")));
    lines
}

/// Fields that differ, by name, from what to what.
fn differences(was: &Model, is: &Model) -> Vec<String> {
    let fields = |model: &Model| serde_json::to_value(model).unwrap_or_default();
    let (was, is) = (fields(was), fields(is));
    let names = is.as_object().into_iter().flat_map(|fields| fields.keys());
    names
        .filter(|name| was[name.as_str()] != is[name.as_str()])
        .map(|name| format!("{name} {} -> {}", was[name.as_str()], is[name.as_str()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(neurons: &str, models: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("models.toml"), models).unwrap();
        let file = dir.path().join("cortex.toml");
        std::fs::write(&file, format!("[gateway]\n{neurons}")).unwrap();
        Config { files: Vec::new(), ..Config::load(&file).unwrap() }
    }

    #[test]
    fn what_a_reload_changes_is_said_line_by_line() {
        let neuron = |name: &str, port: u16| {
            format!("[[neurons]]\nname = \"{name}\"\nendpoint = \"http://127.0.0.1:{port}\"\n")
        };
        let old = config(
            &(neuron("stays", 1) + &neuron("goes", 2) + &neuron("moves", 3)),
            "[[models]]\nid = \"o/a\"\nvram_mb = 5\n[[models]]\nid = \"o/gone\"\n[[models]]\nid = \"o/same\"\n",
        );
        let new = config(
            &("max_wait_secs = 7.0\n".to_owned()
                + &neuron("moves", 4)
                + &neuron("stays", 1)
                + &neuron("new", 5)),
            "[[models]]\nid = \"o/same\"\n[[models]]\nid = \"o/new\"\n[[models]]\nid = \"o/a\"\nvram_mb = 6\n\
             [aliases]\nx = \"o/a\"\n",
        );
        let status = json!({"nodes": [{"name": "goes", "models": [{"id": "o/gone"}]}]});
        assert_eq!(
            old.differences(&new, &status),
            [
                "~ neuron moves: from http://127.0.0.1:3 to http://127.0.0.1:4",
                "+ neuron new at http://127.0.0.1:5",
                "- neuron goes: 1 models there are not used any more, and what runs there goes on",
                "~ model o/a: vram_mb 5 -> 6",
                "+ model o/new",
                "- model o/gone: stays on goes until its place is wanted, and is not loaded again",
                "+ alias x = o/a",
                "~ gateway.max_wait_secs 600.0 -> 7.0",
            ]
        );
        assert!(old.differences(&old, &Value::Null).is_empty());
    }

    #[test]
    fn a_secret_that_is_another_is_said_and_not_shown() {
        let key = |of: &str, name: &str, digit: &str, more: &str| {
            format!("[[{of}]]\nname = \"{name}\"\nsha256 = \"{}\"\n{more}\n", digit.repeat(64))
        };
        let old = key("keys", "alice", "1", "tokens_per_minute = 5")
            + &key("keys", "bob", "2", "")
            + &key("admin_keys", "ops", "3", "roles = [\"viewer\"]");
        let new = key("keys", "alice", "1", "tokens_per_minute = 6")
            + &key("keys", "bob", "a", "")
            + &key("keys", "carol", "b", "")
            + &key("admin_keys", "ops", "c", "roles = [\"operator\"]");
        assert_eq!(
            config(&old, "").differences(&config(&new, ""), &Value::Null),
            [
                "+ key carol",
                "~ key bob: another secret",
                "~ admin key ops: another secret",
                "~ admin_keys.ops.roles [\"viewer\"] -> [\"operator\"]",
                "~ keys.alice.tokens_per_minute 5 -> 6",
            ]
        );
    }
}
