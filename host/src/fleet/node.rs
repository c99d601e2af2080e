use super::prefixes::Prefixes;
use crate::config;
use crate::upstream::Peer;
use neuron_protocol::{Discovery, Health, ModelInfo};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::Notify;

/// A member of the fleet, with what the gateway itself counts there. Lives as long as its configuration.
pub struct Node {
    pub name: String,
    pub peer: Peer,
    pub(super) config: config::Neuron,
    /// Wakes its poller: something happened that the last poll has not seen.
    pub(super) poke: Notify,
    /// Held over a load and what makes room for it: two at once would count on the same memory.
    pub(super) loading: tokio::sync::Mutex<()>,
    /// Loads since the last defrag.
    pub(super) cycles: AtomicU32,
    uses: Mutex<HashMap<String, Arc<ModelUse>>>,
}

/// What the gateway knows of one model on one node better than any poll.
pub struct ModelUse {
    in_flight: AtomicU32,
    uses: AtomicU64,
    last_used: Mutex<Instant>,
    load_ms: AtomicU32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    Up,
    /// It missed a poll or two; requests still go there.
    Suspect,
    Down,
}

/// A node at one moment.
#[derive(Clone)]
pub struct NodeView {
    pub node: Arc<Node>,
    pub state: NodeState,
    pub discovery: Discovery,
    pub health: Health,
    pub models: Vec<ModelInfo>,
    /// What its caches hold; `None` where nothing has been heard of that.
    pub(super) prefixes: Option<Prefixes>,
    /// Why the last poll failed.
    pub error: Option<String>,
    pub(super) missed: u32,
}

/// A request's place at a model on a node; given back when it is dropped, whatever happened.
pub struct Seat {
    model: Arc<ModelUse>,
}

impl Node {
    /// Errors where the token cannot be sent in a header.
    pub fn new(config: &config::Neuron) -> Result<Self, http::header::InvalidHeaderValue> {
        let bearer = config.token.as_ref().map(|token| {
            let mut value = http::HeaderValue::try_from(format!("Bearer {token}"))?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self {
            name: config.name.clone(),
            peer: Peer { endpoint: config.endpoint.clone(), authorization: bearer.transpose()? },
            config: config.clone(),
            poke: Notify::new(),
            loading: tokio::sync::Mutex::default(),
            cycles: AtomicU32::new(0),
            uses: Mutex::default(),
        })
    }

    /// The counts of a model here, by its id in the catalogue.
    pub fn usage(&self, model: &str) -> Arc<ModelUse> {
        let mut uses = self.uses.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = uses.get(model) {
            return known.clone();
        }
        uses.entry(model.to_owned()).or_default().clone()
    }

    pub fn seat(&self, model: &str) -> Seat {
        let model = self.usage(model);
        // Relaxed: counts for judgement, nothing is ordered by them.
        model.in_flight.fetch_add(1, Ordering::Relaxed);
        model.uses.fetch_add(1, Ordering::Relaxed);
        Seat { model }
    }

    /// Asks for a poll now.
    pub fn poke(&self) {
        self.poke.notify_one();
    }
}

impl Default for ModelUse {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            uses: AtomicU64::new(0),
            last_used: Mutex::new(Instant::now()),
            load_ms: AtomicU32::new(0),
        }
    }
}

impl ModelUse {
    /// Requests of this gateway's that are there now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn uses(&self) -> u64 {
        self.uses.load(Ordering::Relaxed)
    }

    /// Seconds since the last request ended, or since the model was first seen.
    pub fn idle_s(&self) -> u32 {
        let at = self.last_used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        at.elapsed().as_secs().min(u64::from(u32::MAX - 1)) as u32
    }

    /// What the last load took; `None` before the first.
    pub fn load_ms(&self) -> Option<u32> {
        Some(self.load_ms.load(Ordering::Relaxed)).filter(|&ms| ms > 0)
    }

    pub(super) fn loaded_in(&self, took: std::time::Duration) {
        self.load_ms.store(took.as_millis().clamp(1, u128::from(u32::MAX - 1)) as u32, Ordering::Relaxed);
        self.touch();
    }

    /// Used now, or first seen now.
    pub(super) fn touch(&self) {
        *self.last_used.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.model.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.model.touch();
    }
}

impl NodeView {
    /// A node that no poll has reached yet.
    pub(super) fn unseen(node: &Arc<Node>) -> Self {
        Self {
            node: node.clone(),
            state: NodeState::Down,
            discovery: Discovery::default(),
            health: Health::default(),
            models: Vec::new(),
            prefixes: None,
            error: Some("not asked yet".into()),
            missed: 0,
        }
    }

    pub fn reachable(&self) -> bool {
        self.state != NodeState::Down
    }
}
