//! Nodes that failed a request, and whether they get it again: a daemon that was restarted is another.

use crate::fleet::{Fleet, NodeView};
use std::time::Duration;
use tokio::time::Instant;

/// Times that a request goes to a node again that was not there. One that broke off over it gets it once more.
const RETURNS: usize = 2;

/// A node that failed the request.
pub(super) struct Met {
    name: String,
    at: Instant,
    /// It took the request.
    asked: bool,
    /// By when polls will have said whether it is away; `None`: it is not asked again, be it restarted.
    known_by: Option<Instant>,
}

impl Met {
    pub(super) fn now(name: &str, asked: bool, known_by: Option<Instant>) -> Self {
        Self { name: name.to_owned(), at: Instant::now(), asked, known_by }
    }

    /// Whether a node that fails it now may get it again.
    pub(super) fn may_be_again(met: &[Self], name: &str, asked: bool) -> bool {
        let mut before = met.iter().filter(|met| met.name == name);
        before.clone().count() < RETURNS && !(asked && before.any(|met| met.asked))
    }

    /// One that has come up since is another.
    pub(super) fn is(&self, view: &NodeView) -> bool {
        let has_returned = if self.asked { view.came_up_since(self.at) } else { view.seen_since(self.at) };
        self.name == view.node.name && !(self.known_by.is_some() && has_returned)
    }

    /// It is not asked again, whatever becomes of it.
    pub(super) fn is_for_good(&self, view: &NodeView) -> bool {
        self.name == view.node.name && self.known_by.is_none()
    }

    /// For how long to wait until polls have said whether it is away or there.
    pub(super) fn undecided_for(&self, fleet: &Fleet) -> Option<Duration> {
        let view = fleet.nodes.iter().find(|view| view.node.name == self.name)?;
        let is_open = view.reachable() && !view.seen_since(self.at);
        let time = self.known_by.filter(|_| is_open)?.saturating_duration_since(Instant::now());
        (!time.is_zero()).then_some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_gets_a_request_twice_more_and_once_where_it_broke_off() {
        let met = |asked: &[bool]| -> Vec<Met> {
            asked.iter().map(|&asked| Met::now("n", asked, Some(Instant::now()))).collect()
        };
        for (before, asked, again) in [
            (&[][..], false, true),
            (&[], true, true),
            (&[false], false, true),
            (&[false], true, true),
            (&[true], true, false),
            (&[true], false, true),
            (&[false, false], false, false),
            (&[true, false], false, false),
        ] {
            assert_eq!(Met::may_be_again(&met(before), "n", asked), again, "{before:?} {asked}");
            assert!(Met::may_be_again(&met(before), "another", asked));
        }
    }
}
