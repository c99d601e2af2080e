//! Nodes that went away over a load: daemons are restarted, and those who wait for the model need not know.

use super::LoadFailure;
use crate::fleet::{Fleet, Node};
use std::sync::Arc;
use std::time::Duration;

/// Those of one job.
#[derive(Default)]
pub(super) struct Gone(Vec<One>);

struct One {
    node: Arc<Node>,
    /// It had begun the load when it went, once.
    begun: bool,
    failure: LoadFailure,
}

/// A node that is not there.
pub(super) enum Away {
    /// It may be restarting.
    Returning(LoadFailure),
    /// It has been away for too long, or has left the fleet.
    Over(LoadFailure),
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

    /// `None`: it is none of them, or it is back.
    pub(super) fn away(&self, fleet: &Fleet, node: &Arc<Node>, patience: Duration) -> Option<Away> {
        let one = self.0.iter().find(|one| Arc::ptr_eq(&one.node, node))?;
        match fleet.view(node) {
            Some(view) if view.reachable() => None,
            Some(view) if view.restarts_for(patience).is_some() => Some(Away::Returning(one.failure.clone())),
            _ => Some(Away::Over(one.failure.clone())),
        }
    }

    /// Those that are worth waiting for.
    pub(super) fn returning(&self, fleet: &Fleet, patience: Duration) -> impl Iterator<Item = &Arc<Node>> {
        let is_returning =
            move |node: &&Arc<Node>| matches!(self.away(fleet, node, patience), Some(Away::Returning(_)));
        self.0.iter().map(|one| &one.node).filter(is_returning)
    }
}
