//! `cortex plan-load`: what loading a model would take, node by node.

use super::screen::plain;
use super::target::Target;
use anyhow::bail;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// Nodes may have to fetch the beginnings of the model's files.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// A model of the catalogue, or an alias
    model: String,
    /// The neuron; without it all of them
    #[arg(long)]
    node: Option<String>,
    #[command(flatten)]
    target: Target,
}

/// An error where no node could load it.
pub(super) fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let body = json!({"model": args.model, "node": args.node}).to_string();
    let said = args.target.ask(Method::POST, "/admin/plan-load", body.into(), LIMIT)?;
    match json {
        true => println!("{}", serde_json::to_string_pretty(&said)?),
        false => lines(&plain(&said)).iter().for_each(|line| println!("{line}")),
    }
    let nodes = said["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if nodes.iter().all(|node| node["outcome"] == "impossible") {
        bail!("no node could load {}", said["model"].as_str().unwrap_or(&args.model));
    }
    Ok(())
}

fn lines(said: &Value) -> Vec<String> {
    let nodes = said["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let width = nodes.iter().filter_map(|node| node["node"].as_str()).map(str::len).max().unwrap_or(0);
    let line = |node: &Value| {
        let name = node["node"].as_str().unwrap_or("-");
        format!("  {name:<width$}  {}", what(node))
    };
    let mut lines = vec![said["model"].as_str().unwrap_or("-").to_owned()];
    lines.extend(nodes.iter().map(line));
    let others = nodes.len() > 1 && !nodes.iter().any(|node| node["outcome"] == "resident");
    if let Some(first) = said["order"][0].as_str().filter(|_| others) {
        lines.push(format!("  it would be tried on {first} first"));
    }
    lines
}

fn what(node: &Value) -> String {
    let names = |value: &Value| {
        let all = value.as_array().into_iter().flatten();
        all.map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect::<Vec<_>>().join(", ")
    };
    let on = match names(&node["devices"]) {
        devices if devices.is_empty() => String::new(),
        devices => format!(" on device {devices}"),
    };
    let mut takes = match (&node["required_mb"], &node["free_mb"]) {
        (Value::Null, _) => String::new(),
        (required, free) => format!(": {required} MiB of {free} free"),
    };
    if let looked @ Value::Object(_) = &node["preflight"] {
        takes += &format!(", {} of them weights, for {} tokens", looked["weights_mb"], looked["context"]);
    }
    match node["outcome"].as_str() {
        Some("resident") => "it is loaded there".to_owned(),
        Some("loading") => "it is being loaded there".to_owned(),
        Some("fits") => format!("fits{on}{takes}"),
        Some("after_unloading") => format!("fits{on} once {} are unloaded{takes}", names(&node["victims"])),
        Some("impossible") => format!("no: {}", node["message"].as_str().unwrap_or("unknown")),
        _ => "neither the node nor the catalogue says what it takes: the load will show".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_its_line() {
        let looked = json!({"weights_mb": 600, "context": 8192});
        let said = json!({"model": "o/m", "nodes": [
            {"node": "a", "outcome": "resident", "devices": [], "victims": []},
            {"node": "long", "outcome": "fits", "devices": [1], "victims": [], "preflight": looked,
             "required_mb": 700, "free_mb": 900},
            {"node": "b", "outcome": "after_unloading", "devices": [0, 1], "victims": ["o/x", "o/y"],
             "required_mb": 700, "free_mb": 40},
            {"node": "c", "outcome": "impossible", "message": "node c: it is broken"},
            {"node": "d", "outcome": "unknown"},
        ]});
        let two = json!({"model": "o/m", "order": ["b", "a"], "nodes": [{"node": "a", "outcome": "fits"}, {"node": "b", "outcome": "unknown"}]});
        assert_eq!(lines(&two).last().unwrap(), "  it would be tried on b first");
        assert_eq!(
            lines(&said),
            [
                "o/m",
                "  a     it is loaded there",
                "  long  fits on device 1: 700 MiB of 900 free, 600 of them weights, for 8192 tokens",
                "  b     fits on device 0, 1 once o/x, o/y are unloaded: 700 MiB of 40 free",
                "  c     no: node c: it is broken",
                "  d     neither the node nor the catalogue says what it takes: the load will show",
            ]
        );
    }
}
