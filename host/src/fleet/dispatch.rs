//! From a model that is asked for to a seat at it on a node: at once, or in turn, or after a load.

use super::desk::Desk;
use super::load::Why;
use super::place::{capacity, find};
use super::queue::Priority;
use super::standing::copies;
use super::usage::Seat;
use super::{LoadFailure, Loads, Node, NodeView};
use crate::config::Model;
use crate::refusal::Refusal;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A request, as far as its turn depends on it.
pub struct Ask<'a> {
    pub model: &'a Model,
    /// Only models of the catalogue are loaded.
    pub catalogued: bool,
    pub tenant: &'a str,
    pub priority: Priority,
    /// Prompt and answer, estimated.
    pub tokens: u64,
    /// It had its turn already and met a node that failed.
    pub again: bool,
    /// It may start a load.
    pub may_load: bool,
    /// When it has waited long enough.
    pub deadline: Instant,
}

/// Where a request may go.
pub enum Routed {
    /// Best first, not empty.
    Nodes(Vec<Arc<NodeView>>),
    /// Ask again after this time, or when the fleet changes.
    Wait(Duration),
}

/// A seat, and what it took to get it.
pub struct Granted {
    pub view: Arc<NodeView>,
    pub seat: Seat,
    pub waited: Duration,
    /// What it waited for the model to be there at all.
    pub cold: Option<Duration>,
}

/// Why there is none.
#[derive(Debug)]
pub enum Denied {
    /// Nobody can serve it, or the policy says no.
    Refused(Refusal),
    Failed(LoadFailure),
    /// The deadline has passed. `cold`: the model was not there.
    Late {
        cold: bool,
    },
    /// As many wait as may.
    Full,
}

/// What one look at the nodes comes to.
enum Look {
    Seated(Arc<NodeView>, Seat),
    /// Look again when something changes, or after this time.
    Later {
        again: Option<Duration>,
        cold: bool,
    },
}

impl Loads {
    /// A seat. `choose` is asked for nodes whenever it is this request's turn; dropping the future gives the
    /// place up.
    pub async fn seat(
        self: &Arc<Self>,
        ask: &Ask<'_>,
        choose: &mut (dyn FnMut() -> Result<Routed, Refusal> + Send),
    ) -> Result<Granted, Denied> {
        let (desk, started) = (self.desk(&ask.model.id), Instant::now());
        let mut cold: Option<Instant> = None;
        let granted = |view, seat, cold: Option<Instant>| {
            let (waited, cold) = (started.elapsed(), cold.map(|since| since.elapsed()));
            Granted { view, seat, waited, cold }
        };
        let mut changes = self.fleet.changes();
        if ask.again || desk.waiting() == 0 {
            match self.look(ask, &desk, choose()?) {
                Look::Seated(view, seat) => return Ok(granted(view, seat, None)),
                Look::Later { cold: is_cold, .. } => cold = is_cold.then_some(started),
            }
        }
        if cold.is_none() && ask.catalogued && copies(self, ask.model) == 0 {
            cold = Some(started);
        }
        let limit = self.config.load().max_waiting;
        let place = desk.join(ask.tenant, ask.priority, ask.tokens, limit).ok_or(Denied::Full)?;
        let mut is_next = false;
        loop {
            changes.borrow_and_update();
            let mut again = None;
            if let Some(failure) = place.told() {
                return Err(Denied::Failed(failure));
            }
            let was_next = std::mem::replace(&mut is_next, place.is_next());
            if was_next && !is_next {
                // A band may have got its turn by the time alone, and nobody told the one who is next now.
                desk.wake();
            }
            if is_next {
                match self.look(ask, &desk, choose()?) {
                    Look::Seated(view, seat) => {
                        place.served();
                        return Ok(granted(view, seat, cold));
                    }
                    Look::Later { again: after, cold: is_cold } => {
                        again = after;
                        cold = cold.or(is_cold.then(Instant::now));
                    }
                }
            }
            let pause = again.map_or(ask.deadline, |after| ask.deadline.min(Instant::now() + after));
            tokio::select! {
                () = place.notified() => {}
                // An error: the fleet is gone, and so is the gateway.
                _ = changes.changed(), if is_next => {}
                () = tokio::time::sleep_until(pause) => {
                    if Instant::now() >= ask.deadline {
                        return Err(Denied::Late { cold: cold.is_some() });
                    }
                }
            }
        }
    }

    fn look(self: &Arc<Self>, ask: &Ask<'_>, desk: &Arc<Desk>, routed: Routed) -> Look {
        let nodes = match routed {
            Routed::Nodes(nodes) => nodes,
            Routed::Wait(time) => return Look::Later { again: Some(time), cold: false },
        };
        let (mut is_there, mut candidates): (bool, Vec<Arc<Node>>) = (false, Vec::new());
        for view in nodes {
            match find(&view, ask.model).map(|found| found.info).filter(|info| info.can_serve()) {
                Some(_) if view.node.draining().is_some() => {}
                // Half open: somebody tries it already.
                Some(_) if !view.node.breaker.lets_pass() => is_there = true,
                Some(info) => {
                    let usage = view.node.usage(&ask.model.id);
                    if let Some(seat) = usage.try_seat(capacity(&view, info), desk) {
                        view.node.breaker.tries();
                        return Look::Seated(view, seat);
                    }
                    is_there |= !usage.is_closed();
                }
                None if view.node.draining().is_some() => {}
                None => candidates.push(view.node.clone()),
            }
        }
        if !is_there && ask.catalogued && ask.may_load && !candidates.is_empty() {
            self.start(ask.model, candidates, Why::Demand);
        }
        Look::Later { again: None, cold: !is_there }
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
