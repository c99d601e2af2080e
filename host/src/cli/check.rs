use crate::config::Config;
use crate::metrics::Metrics;
use crate::policy::{Kind, PolicyEngine, PolicyStatus, Registry};
use anyhow::bail;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// What there is to say of a configuration that would be taken.
#[derive(Serialize)]
struct Report {
    nodes: Vec<String>,
    models: usize,
    policies: Vec<PolicyStatus>,
    /// What is allowed and may not be meant.
    notes: Vec<String>,
}

/// Everything that `serve` would refuse at start or at a reload, without serving.
pub(super) fn run(path: &Path, json: bool) -> anyhow::Result<()> {
    let report = look(&Config::load(path)?)?;
    match json {
        true => super::print_json(&report)?,
        false => print(path, &report),
    }
    match report.policies.iter().filter(|policy| policy.refused.is_some()).count() {
        0 => Ok(()),
        refused => bail!("{refused} policy file(s) refused"),
    }
}

fn look(config: &Config) -> anyhow::Result<Report> {
    let registry = Registry::new(Arc::new(PolicyEngine::new(None, 32 << 20)?), Arc::new(Metrics::new()?));
    registry.configure(config.policies.clone());
    let (table, mut notes) = (registry.table(), config.doubts());
    for (name, kind, key) in [
        (&config.routing_policy, Kind::Routing, "routing.policy"),
        (&config.eviction_policy, Kind::Eviction, "eviction.strategy"),
    ] {
        if table.get(name, kind).is_none() {
            notes.push(format!("{key} = {name:?} is not among the policies; the built-in serves"));
        }
    }
    for (node, dialect) in config.nodes.iter().filter_map(|node| Some((&node.name, node.dialect()?))) {
        let name = [dialect, crate::request::UPSTREAM_SUFFIX].concat();
        if table.get(&name, Kind::Upstream).is_none() {
            notes.push(format!(
                "upstreams.{node}.dialect = {dialect:?} needs the policy {name}, which is not there: it serves nothing"
            ));
        }
    }
    Ok(Report {
        nodes: config.nodes.iter().map(|node| node.name.clone()).collect(),
        models: config.catalogue.models().count(),
        policies: table.status(),
        notes,
    })
}

fn print(path: &Path, report: &Report) {
    println!("{}: ok", path.display());
    println!("  nodes: {}", report.nodes.join(", "));
    println!("  models: {}", report.models);
    for policy in &report.policies {
        if let Some(serving) = &policy.serving {
            let (kind, version) = (serving.kind, &serving.version);
            println!("  policy {}: {kind:?} {version} ({})", policy.name, serving.path.display());
        }
        if let Some(bad) = &policy.refused {
            let stage = bad.stage.map(|stage| format!(" at {stage}")).unwrap_or_default();
            println!("  policy {}: refused{stage}: {}", policy.name, bad.error);
        }
    }
    report.notes.iter().for_each(|note| println!("  note: {note}"));
}
