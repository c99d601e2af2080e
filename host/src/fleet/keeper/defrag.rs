//! Memory that many loads have left in pieces: the node is drained, gives all of it back, and gets its
//! models again.

use super::super::load::Why;
use super::super::node::Draining;
use super::super::{Loads, Node, What, evict, poll};
use super::{Keeper, is_quiet, resident};
use crate::config::Config;
use neuron_protocol::{UnloadMode, feature};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// A node is quiet when nothing ran there for so long.
const QUIET: Duration = Duration::from_secs(5);
/// At so many times the cycles it is not waited for quiet any more.
const AT_LAST: u32 = 2;

impl Keeper {
    pub(super) fn defrag(&mut self, config: &Arc<Config>) {
        let after = config.defrag_after_cycles;
        if after == 0 {
            return;
        }
        let fleet = self.loads.fleet.now();
        for view in fleet.nodes.iter().filter(|view| view.reachable()) {
            let node = &view.node;
            if !is_quiet(&self.loads, config, view) {
                self.quiet.remove(&node.name);
            }
            let quiet_since = *self.quiet.entry(node.name.clone()).or_insert_with(Instant::now);
            let cycles = node.cycles.load(Ordering::Relaxed);
            let whole = view.models.iter().all(|info| config.catalogue.on_node(&info.id).is_some())
                && !resident(config, view).iter().any(|m| m.pinned || self.loads.fleet.is_pinned(&m.id));
            let due =
                cycles >= after && quiet_since.elapsed() >= QUIET || cycles >= after.saturating_mul(AT_LAST);
            // What is pinned stays, and what no load brought would not come back. One node at a time.
            let other = fleet.nodes.iter().any(|view| view.node.draining() == Some(Draining::Defrag));
            if due && whole && !other && node.draining().is_none() {
                node.drain(Draining::Defrag, true);
                self.loads.fleet.touch();
                let (loads, node, config) = (self.loads.clone(), node.clone(), config.clone());
                self.tasks.spawn(async move { put_in_order(&loads, &node, &config).await });
            }
        }
    }
}

async fn put_in_order(loads: &Arc<Loads>, node: &Arc<Node>, config: &Config) {
    let turn = node.loading.lock().await;
    tracing::info!(node = node.name, "drained to put its memory in order");
    let fleet = loads.fleet.now();
    let models = fleet.view(node).map(|view| resident(config, view)).unwrap_or_default();
    let idle = async {
        for model in &models {
            node.usage(&model.id).until_idle().await;
        }
    };
    let emptied = match tokio::time::timeout(config.max_wait, idle).await {
        Ok(()) => empty(loads, node).await,
        Err(_elapsed) => false,
    };
    if emptied {
        let has = fleet.view(node).is_some_and(|view| view.discovery.has(feature::DEFRAG));
        match loads.hosts.defrag(node).await {
            Ok(said) => tracing::info!(node = node.name, ?said, "its memory is in order"),
            Err(error) if has => tracing::warn!(node = node.name, %error, "it could not do more"),
            Err(_) => tracing::debug!(node = node.name, "it has no call for more than unloading all"),
        }
        node.cycles.store(0, Ordering::Relaxed);
    } else {
        tracing::info!(node = node.name, "it did not fall silent; later");
        // Half of what made it due, so that it is not drained in vain all the time.
        node.cycles.fetch_min(config.defrag_after_cycles / 2, Ordering::Relaxed);
    }
    poll::refresh(loads, node).await;
    node.drain(Draining::Defrag, false);
    drop(turn);
    loads.fleet.touch();
    // An operator may have said meanwhile that it gets nothing.
    for model in models.into_iter().filter(|_| node.draining().is_none()) {
        loads.start(model, vec![node.clone()], Why::Kept);
    }
}

/// Unloads everything; `false` where something is in use.
async fn empty(loads: &Loads, node: &Arc<Node>) -> bool {
    let fleet = loads.fleet.now();
    let Some(view) = fleet.view(node) else { return false };
    for info in view.models.iter().filter(|info| info.can_serve()) {
        if evict::unload(loads, node, &info.id, UnloadMode::IfIdle, None).await.is_err() {
            return false;
        }
        loads.metrics.evictions.with_label_values(&["defrag"]).inc();
        let config = loads.config.load();
        let why = "to have the node's memory in one piece".to_owned();
        loads.chronicle.add(What::Unloaded, config.catalogue.id_of(&info.id), &node.name, why, None);
    }
    true
}
