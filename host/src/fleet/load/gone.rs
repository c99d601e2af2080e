//! Nodes that went away over a load: daemons are restarted, and those who wait for the model need not know.

use super::LoadFailure;
use crate::fleet::{Fleet, Node};
use std::sync::Arc;

/// Those of one job.
#[derive(Default)]
pub(super) struct Gone(Vec<One>);

struct One {
    node: Arc<Node>,
    /// It had begun the load when it went, once.
    begun: bool,
    failure: LoadFailure,
}

impl Gone {
    /// Whether the load is tried there again: a model that ends the daemon twice is not given to it any more.
    pub(super) fn note(&mut self, node: &Arc<Node>, failure: &LoadFailure, begun: bool) -> bool {
        let Some(one) = self.0.iter_mut().find(|one| Arc::ptr_eq(&one.node, node)) else {
            self.0.push(One { node: node.clone(), begun, failure: failure.clone() });
            return true;
        };
        one.failure = failure.clone();
        let is_again = begun && one.begun;
        one.begun |= begun;
        !is_again
    }

    /// Why the node is not there yet, where it is one of them and has not come back.
    pub(super) fn still(&self, fleet: &Fleet, node: &Arc<Node>) -> Option<LoadFailure> {
        let one = self.0.iter().find(|one| Arc::ptr_eq(&one.node, node))?;
        let is_back = fleet.view(node).is_some_and(|view| view.reachable());
        (!is_back).then(|| one.failure.clone())
    }
}
