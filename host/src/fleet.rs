//! What is known of the nodes: one immutable snapshot that readers never lock.

mod assumed;
mod breaker;
mod chronicle;
mod desk;
mod dispatch;
mod evict;
mod foresee;
mod hosts;
mod index;
mod keeper;
pub(crate) mod listen;
mod load;
mod node;
mod offer;
mod place;
mod plan;
mod poll;
mod prefixes;
mod queue;
mod standing;
mod survey;
mod usage;

pub use assumed::Assumption;
pub use chronicle::{Chronicle, Event, What};
pub use desk::Desk;
pub use dispatch::{Ask, Denied, Granted, Routed};
pub use foresee::{Foreseen, Outcome};
pub use hosts::{Answer, Hosts, Shift};
pub use keeper::Keeper;
pub use listen::{Deaf, Listener};
pub use load::{Job, JobStatus, LoadFailure, Loads, Why};
pub use node::{Draining, Node, NodeState, NodeView};
pub use place::{NodeModel, back_in, find, is_coming, readiness, returns_in, why_nobody};
pub use poll::Pollers;
pub use prefixes::Conversation;
pub use queue::Priority;
pub use standing::pinned_too_large;
pub use survey::facts;
pub use usage::{ModelUse, Seat};

use crate::policy::Topology;
use arc_swap::ArcSwap;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// All nodes at one moment, in the order of the configuration.
#[derive(Default)]
pub struct Fleet {
    pub nodes: Vec<Arc<NodeView>>,
    /// Changes only when members come or go.
    pub topology: Arc<Topology>,
}

/// The current [`Fleet`], and who changes it.
pub struct FleetState {
    current: ArcSwap<Fleet>,
    /// Writers take turns: each makes its snapshot from the one before.
    writing: Mutex<u64>,
    changed: watch::Sender<()>,
    /// Models that an operator has pinned until the next restart.
    pins: ArcSwap<BTreeSet<String>>,
}

impl Default for FleetState {
    fn default() -> Self {
        Self {
            current: ArcSwap::default(),
            writing: Mutex::new(0),
            changed: watch::Sender::new(()),
            pins: ArcSwap::default(),
        }
    }
}

impl FleetState {
    pub fn now(&self) -> Arc<Fleet> {
        self.current.load_full()
    }

    /// Fires after every change.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// New members. Nodes that stay, by name and address, keep what is known of them.
    pub fn set_members(&self, nodes: Vec<Arc<Node>>) {
        let mut epoch = self.lock();
        *epoch += 1;
        let old = self.now();
        let known = |node: &Arc<Node>| old.nodes.iter().find(|v| Arc::ptr_eq(&v.node, node)).cloned();
        let names = nodes.iter().map(|n| n.name.clone()).collect();
        let nodes = nodes.iter().map(|n| known(n).unwrap_or_else(|| Arc::new(NodeView::unseen(n)))).collect();
        let topology = Arc::new(Topology { epoch: *epoch, names });
        self.current.store(Arc::new(Fleet { nodes, topology }));
        drop(epoch);
        self.changed.send_replace(());
    }

    /// Changes what is known of one node; without effect where it has left.
    pub(in crate::fleet) fn modify(&self, node: &Arc<Node>, change: impl FnOnce(&mut NodeView)) {
        let epoch = self.lock();
        let old = self.now();
        let mut nodes = old.nodes.clone();
        if let Some(slot) = nodes.iter_mut().find(|v| Arc::ptr_eq(&v.node, node)) {
            let view = Arc::make_mut(slot);
            change(view);
            view.reindex();
        }
        self.current.store(Arc::new(Fleet { nodes, topology: old.topology.clone() }));
        drop(epoch);
        self.changed.send_replace(());
    }

    /// Whether a node of that name answers.
    pub fn node_is_up(&self, name: &str) -> bool {
        self.now().node(name).is_some_and(|view| view.state == NodeState::Up)
    }

    /// Whoever waits looks again: what they look at is not in the snapshot.
    pub fn touch(&self) {
        self.changed.send_replace(());
    }

    pub fn is_pinned(&self, model: &str) -> bool {
        self.pins.load().contains(model)
    }

    pub fn pins(&self) -> Arc<BTreeSet<String>> {
        self.pins.load_full()
    }

    /// Until the next restart; what the catalogue pins is pinned besides.
    pub fn pin(&self, model: &str, pinned: bool) {
        let _turn = self.lock();
        let mut pins = BTreeSet::clone(&self.pins.load());
        if pinned {
            pins.insert(model.to_owned());
        } else {
            pins.remove(model);
        }
        self.pins.store(Arc::new(pins));
        self.touch();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, u64> {
        self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Fleet {
    /// `None` once it has left.
    pub fn view(&self, node: &Arc<Node>) -> Option<&Arc<NodeView>> {
        self.nodes.iter().find(|v| Arc::ptr_eq(&v.node, node))
    }

    pub fn node(&self, name: &str) -> Option<&Arc<NodeView>> {
        self.nodes.iter().find(|v| v.node.name == name)
    }
}
