use crate::config::{Config, Model, NodeConfig, Serves};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// The cortex.toml that is to be put in force
    #[arg(long)]
    config: PathBuf,
    /// The one in force
    #[arg(long, default_value = super::DEFAULT_CONFIG)]
    current: PathBuf,
    /// The admin address of the running gateway, http://HOST:PORT, to say what is affected there
    #[arg(long)]
    url: Option<String>,
}

/// What a reload would change, a line each; nothing is touched.
pub(super) fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let (old, new) = (Config::load(&args.current)?, Config::load(&args.config)?);
    let status = running(args);
    let lines = lines(&old, &new, &status);
    if json {
        return super::print_json(&serde_json::json!({"changes": lines}));
    }
    if lines.is_empty() {
        println!("nothing changes");
    }
    lines.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// `Null` where no gateway answers: the files say enough.
fn running(args: &Args) -> Value {
    let target = super::target::Target::new(args.current.clone(), args.url.clone());
    target.get("/admin/status", Duration::from_secs(2)).unwrap_or_default()
}

fn lines(old: &Config, new: &Config, status: &Value) -> Vec<String> {
    let mut lines = nodes(&old.nodes, &new.nodes, status);
    lines.extend(models(old, new, status));
    let keys = |config: &Config| config.keys.iter().map(|key| key.name.clone()).collect::<Vec<_>>();
    let (had, has) = (keys(old), keys(new));
    lines.extend(has.iter().filter(|name| !had.contains(name)).map(|name| format!("+ key {name}")));
    lines.extend(had.iter().filter(|name| !has.contains(name)).map(|name| format!("- key {name}")));
    if !old.keys.is_empty() && new.keys.is_empty() {
        lines.push("! a reload refuses to remove all keys; to mean that, restart".into());
    }
    // Told in detail above.
    let told = ["catalogue", "neurons and upstreams", "which files are read"];
    let rest = old.changes(new).into_iter().filter(|what| !told.contains(&what.as_str()));
    lines.extend(rest.map(|what| format!("~ {what}")));
    lines.extend(new.doubts().into_iter().map(|doubt| format!("! {doubt}")));
    lines
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
            lines(&old, &new, &status),
            [
                "~ neuron moves: from http://127.0.0.1:3 to http://127.0.0.1:4",
                "+ neuron new at http://127.0.0.1:5",
                "- neuron goes: 1 models there are not used any more, and what runs there goes on",
                "~ model o/a: vram_mb 5 -> 6",
                "+ model o/new",
                "- model o/gone: stays on goes until its place is wanted, and is not loaded again",
                "+ alias x = o/a",
                "~ gateway.max_wait_secs",
            ]
        );
        assert!(lines(&old, &old, &Value::Null).is_empty());
    }
}
