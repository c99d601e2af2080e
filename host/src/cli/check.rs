use crate::config::Config;
use crate::metrics::Metrics;
use crate::policy::{Kind, PolicyEngine, Registry};
use anyhow::bail;
use std::path::Path;
use std::sync::Arc;

/// Everything that `serve` would refuse at start or at a reload, without serving.
pub(super) fn run(path: &Path) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    println!("{}: ok", path.display());
    println!("  nodes: {}", config.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", "));
    println!("  models: {}", config.catalogue.models().count());
    for doubt in config.doubts() {
        println!("  note: {doubt}");
    }
    let registry = Registry::new(Arc::new(PolicyEngine::new(None, 32 << 20)?), Arc::new(Metrics::new()?));
    registry.configure(config.policies.clone());
    let table = registry.table();
    let mut refused = 0;
    for policy in table.status() {
        if let Some(serving) = &policy.serving {
            println!(
                "  policy {}: {:?} {} ({})",
                policy.name,
                serving.kind,
                serving.version,
                serving.path.display()
            );
        }
        if let Some(bad) = &policy.refused {
            refused += 1;
            println!("  policy {}: refused at {:?}: {}", policy.name, bad.stage, bad.error);
        }
    }
    for (name, kind, key) in [
        (&config.routing_policy, Kind::Routing, "routing.policy"),
        (&config.eviction_policy, Kind::Eviction, "eviction.strategy"),
    ] {
        if table.get(name, kind).is_none() {
            println!("  note: {key} = {name:?} is not among the policies; the built-in serves");
        }
    }
    for (node, dialect) in config.nodes.iter().filter_map(|node| Some((&node.name, node.dialect()?))) {
        let name = [dialect, crate::request::UPSTREAM_SUFFIX].concat();
        if table.get(&name, Kind::Upstream).is_none() {
            println!(
                "  note: upstreams.{node}.dialect = {dialect:?} needs the policy {name}, which is not there: it serves nothing"
            );
        }
    }
    if refused > 0 {
        bail!("{refused} policy file(s) refused");
    }
    Ok(())
}
