//! What happened to a request on its way, for `cortex explain`.

use crate::facts::{NODE_FACTS, NodeFacts};
use crate::policy::Topology;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Steps of one request that are kept; a longer story loses its middle.
const STEPS: usize = 32;

/// In their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Story {
    steps: Vec<(Instant, Step)>,
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Decided(Considered),
    /// To a node; `span` is the trace's.
    Sent {
        node: String,
        span: u64,
        waited: Duration,
        cold: Option<Duration>,
    },
    /// It did not begin an answer.
    Failed {
        node: String,
        why: String,
    },
}

/// A decision and what was known for it.
#[derive(Debug, Clone)]
pub(crate) struct Considered {
    /// The policy, or the built-in.
    pub(super) by: String,
    pub(super) topology: Arc<Topology>,
    pub(super) facts: Vec<NodeFacts>,
    /// Places in the topology, the best first.
    pub(super) order: Vec<usize>,
}

/// A step as it is told, with when.
#[derive(Debug, Clone)]
pub struct Told {
    /// Seconds since the request's arrival.
    pub at_s: f64,
    pub(crate) step: Step,
}

impl Story {
    pub(super) fn add(&mut self, step: Step) {
        if self.steps.len() == STEPS {
            self.steps.remove(STEPS / 2);
        }
        self.steps.push((Instant::now(), step));
    }

    /// Since `arrived`.
    pub(super) fn told(self, arrived: std::time::Instant) -> Vec<Told> {
        let since = |at: Instant| at.into_std().saturating_duration_since(arrived).as_secs_f64();
        self.steps.into_iter().map(|(at, step)| Told { at_s: since(at), step }).collect()
    }
}

impl Serialize for Told {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("at_s", &self.at_s)?;
        match &self.step {
            Step::Decided(considered) => {
                let order = considered.order.iter().filter_map(|&i| considered.topology.names.get(i));
                map.serialize_entry("step", "decided")?;
                map.serialize_entry("by", &considered.by)?;
                map.serialize_entry("order", &order.collect::<Vec<_>>())?;
                map.serialize_entry("nodes", &Nodes(considered))?;
            }
            Step::Sent { node, span, waited, cold } => {
                map.serialize_entry("step", "sent")?;
                map.serialize_entry("node", node)?;
                map.serialize_entry("waited_s", &waited.as_secs_f64())?;
                map.serialize_entry("cold_s", &cold.map(|time| time.as_secs_f64()))?;
                map.serialize_entry("span", &format_args!("{span:016x}").to_string())?;
            }
            Step::Failed { node, why } => {
                map.serialize_entry("step", "failed")?;
                map.serialize_entry("node", node)?;
                map.serialize_entry("why", why)?;
            }
        }
        map.end()
    }
}

struct Nodes<'a>(&'a Considered);

impl Serialize for Nodes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(None)?;
        for (name, facts) in self.0.topology.names.iter().zip(&self.0.facts) {
            seq.serialize_element(&Node(name, facts))?;
        }
        seq.end()
    }
}

/// Its name and the facts that are known.
struct Node<'a>(&'a str, &'a NodeFacts);

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("node", self.0)?;
        for (name, _, column) in NODE_FACTS {
            match column(self.1) {
                crate::facts::UNKNOWN => {}
                value => map.serialize_entry(name, &value)?,
            }
        }
        map.end()
    }
}
