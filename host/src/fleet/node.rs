use super::assumed::{self, Assumed, Assumption};
use super::breaker::{Breaker, Change};
use super::index::{ByName, Names, hash_of};
use super::offer;
use super::prefixes::{Conversation, Prefixes};
use super::usage::{ModelUse, Signals};
use crate::config::{self, Offer, Serves};
use crate::metrics::Metrics;
use crate::upstream::{BadPeer, Peer};
use arc_swap::ArcSwap;
use neuron_protocol::{Discovery, Health, LoadProgress, ModelInfo, ModelLoad};
use serde::Serialize;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A member of the fleet, with what the gateway itself counts there. Lives as long as its configuration.
pub struct Node {
    pub name: String,
    pub peer: Peer,
    /// For everything but inference, over connections of its own: streams that fill one must not look like a node
    /// that is silent.
    pub(super) control: Peer,
    pub(super) config: config::NodeConfig,
    /// Wakes its poller: something happened that the last poll has not seen.
    pub(super) poke: Notify,
    /// Held over a load and what makes room for it: two at once would count on the same memory.
    pub(super) loading: tokio::sync::Mutex<()>,
    /// Loads since the last defrag.
    pub(super) cycles: AtomicU32,
    draining: AtomicU8,
    /// Readers never wait; a model that is new to the node makes a new table.
    uses: ArcSwap<ByName<(String, Arc<ModelUse>)>>,
    adding: Mutex<()>,
    /// What its models' counts have in common.
    pub(super) signals: Arc<Signals>,
    pub(super) assumed: Mutex<Assumed>,
    pub(super) breaker: Breaker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    Up,
    /// It missed a poll or two; requests still go there.
    Suspect,
    Down,
}

/// Why a node gets no new requests and no loads, though it is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Draining {
    Operator,
    /// Its memory is being put in order.
    Defrag,
}

impl Draining {
    fn bit(self) -> u8 {
        match self {
            Self::Operator => 1,
            Self::Defrag => 2,
        }
    }
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
    /// Loads under way there, as it says on `/watch`.
    pub loads: Vec<LoadProgress>,
    /// Where in `models` and in `health.models` a name is; made anew with every change.
    pub(super) index: Arc<ByName<(usize, Option<usize>)>>,
    /// No other view, of this or another node, has the same.
    pub(super) stamp: u64,
    /// Why the last poll failed.
    pub error: Option<String>,
    pub(super) missed: u32,
    /// Since when its host is there and nobody listens: what its daemon has begun may come to its end yet.
    pub(super) closed_since: Option<Instant>,
    /// Since when it has been up without a pause; `None` while it is down.
    pub(super) up_since: Option<Instant>,
    /// Times in a row that it went down soon after it had come up.
    pub(super) flaps: u32,
    /// Good polls that it owes before it counts as up.
    pub(super) proof: u32,
    /// When it answered a poll last.
    pub(super) seen_at: Option<Instant>,
    /// When it went down; `None` while it is up.
    pub(super) left_at: Option<Instant>,
}

impl Node {
    /// Errors where it has no address, or the token cannot be sent in a header.
    pub fn new(config: &config::NodeConfig) -> Result<Self, BadPeer> {
        Ok(Self {
            name: config.name.clone(),
            peer: Peer::open(&config.access)?,
            control: Peer::open(&config.access)?,
            config: config.clone(),
            poke: Notify::new(),
            loading: tokio::sync::Mutex::default(),
            cycles: AtomicU32::new(0),
            draining: AtomicU8::new(0),
            uses: ArcSwap::default(),
            adding: Mutex::default(),
            signals: Arc::default(),
            assumed: Mutex::default(),
            breaker: Breaker::default(),
        })
    }

    /// The counts of a model here, by its id in the catalogue.
    pub fn usage(&self, model: &str) -> Arc<ModelUse> {
        let hash = hash_of(model);
        if let Some(known) = self.known_usage(model, hash) {
            return known;
        }
        let _turn = self.adding.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = self.known_usage(model, hash) {
            return known;
        }
        let new = Arc::new(ModelUse::new(self.signals.clone()));
        let mut uses = ByName::clone(&self.uses.load());
        uses.entry(hash).or_default().push((model.to_owned(), new.clone()));
        self.uses.store(Arc::new(uses));
        self.signals.changed();
        new
    }

    /// The counts of a model that has been here, or was looked for.
    pub(super) fn known_usage(&self, model: &str, hash: u64) -> Option<Arc<ModelUse>> {
        let uses = self.uses.load();
        let found = uses.get(&hash)?.iter().find(|(name, _)| name == model);
        found.map(|(_, usage)| usage.clone())
    }

    /// Why it gets nothing new; an operator's word comes first.
    pub fn draining(&self) -> Option<Draining> {
        // Relaxed: one request more or less.
        let bits = self.draining.load(Ordering::Relaxed);
        [Draining::Operator, Draining::Defrag].into_iter().find(|why| bits & why.bit() != 0)
    }

    /// Each reason is given and taken back by itself.
    pub fn drain(&self, why: Draining, on: bool) {
        match on {
            true => self.draining.fetch_or(why.bit(), Ordering::Relaxed),
            false => self.draining.fetch_and(!why.bit(), Ordering::Relaxed),
        };
        self.signals.changed();
    }

    /// For how long it gets nothing because its answers kept failing.
    pub fn left_alone_for(&self) -> Option<Duration> {
        self.breaker.open_for()
    }

    /// How a request ended there, as far as it tells something of the node; `None` where it does not.
    pub(crate) fn took(&self, well: Option<bool>, metrics: &Metrics) {
        let change = match well {
            Some(true) => self.breaker.succeeded(),
            Some(false) => self.breaker.failed(),
            None => return self.breaker.undecided(),
        };
        let gauge = || metrics.node_breaker_open.with_label_values(&[self.name.as_str()]);
        match change {
            None => return,
            Some(Change::Opened(time)) => {
                tracing::warn!(
                    node = self.name,
                    "its answers keep failing: nothing is sent there for {time:?}"
                );
                gauge().set(1);
                // Its poller looks again when the time is over, and whoever waits with it.
                self.poke();
            }
            Some(Change::Closed) => {
                tracing::info!(node = self.name, "it answers again");
                gauge().set(0);
                self.poke();
            }
        }
        self.signals.changed();
    }

    /// Another one after everything that the gateway has done to it, but for requests that come and go.
    pub(super) fn version(&self) -> u32 {
        self.signals.version()
    }

    /// Requests of this gateway's that are there now.
    pub fn in_flight(&self) -> u32 {
        self.uses.load().values().flatten().map(|(_, usage)| usage.in_flight()).sum()
    }

    /// A load has ended well.
    pub(super) fn cycled(&self) {
        self.cycles.fetch_add(1, Ordering::Relaxed);
    }

    /// What it has, where it is no neuron.
    pub fn offer(&self) -> Option<&Offer> {
        match &self.config.serves {
            Serves::Neuron => None,
            Serves::Upstream(offer) => Some(offer),
        }
    }

    /// What it speaks, where that is not the native dialect.
    pub fn dialect(&self) -> Option<&str> {
        self.config.dialect()
    }

    /// Its own name for a model that its view calls `model`.
    pub fn name_of<'a>(&'a self, model: &'a str) -> &'a str {
        self.offer().map_or(model, |known| offer::name(known, model))
    }

    /// Asks for a poll now.
    pub fn poke(&self) {
        self.poke.notify_one();
    }
}

/// A daemon that takes no more connections is given so long for what it has begun.
const ENDING: Duration = Duration::from_secs(120);

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
            loads: Vec::new(),
            index: Arc::default(),
            stamp: next_stamp(),
            error: Some("not asked yet".into()),
            missed: 0,
            closed_since: None,
            up_since: None,
            flaps: 0,
            proof: 0,
            seen_at: None,
            left_at: None,
        }
    }

    pub(super) fn reindex(&mut self) {
        let mut index = ByName::default();
        for (at, info) in self.models.iter().enumerate() {
            let load = self.health.models.iter().position(|load| load.id == info.id);
            index.entry(hash_of(&info.id)).or_insert_with(Vec::new).push((at, load));
        }
        self.index = Arc::new(index);
        self.stamp = next_stamp();
    }

    /// Where in `models` the model is, and how busy it is.
    pub(super) fn find(&self, names: &Names<'_>) -> Option<(usize, Option<&ModelLoad>)> {
        if self.models.is_empty() {
            return None;
        }
        names.each().find_map(|(name, hash)| {
            let of_name = |(at, _): &&(usize, Option<usize>)| self.models[*at].id == name;
            let (at, load) = self.index.get(&hash)?.iter().find(of_name)?;
            Some((*at, load.map(|at| &self.health.models[at])))
        })
    }

    /// Tokens of the conversation's beginning in its cache, as it has said or as must be from what it was given;
    /// `None` where nothing is known of it. `model`: the node's id.
    pub fn cached(&self, model: &str, conversation: &Conversation<'_>) -> Option<u32> {
        let prefixes = self.prefixes.as_ref()?;
        Some(conversation.cached(prefixes, &assumed::lock(&self.node), model))
    }

    /// Takes the conversation to be in its cache from now on; `None` where nobody would ever confirm it.
    pub fn assume(&self, model: &str, conversation: &Conversation<'_>) -> Option<Assumption> {
        self.prefixes.as_ref()?;
        Assumption::new(&self.node, conversation.entries(model), conversation.lengths())
    }

    /// Nobody knows yet what it has.
    pub(crate) fn is_unseen(&self) -> bool {
        self.state == NodeState::Down && self.missed == 0 && self.proof == 0
    }

    /// It takes no connections, as a daemon that ends what it has begun.
    pub fn is_ending(&self) -> bool {
        self.closed_since.is_some_and(|since| since.elapsed() < ENDING)
    }

    /// It has answered a poll that was begun after that.
    pub fn seen_since(&self, at: Instant) -> bool {
        self.seen_at.is_some_and(|seen| seen > at)
    }

    /// It has come up after that.
    pub fn came_up_since(&self, at: Instant) -> bool {
        self.state != NodeState::Down && self.up_since.is_some_and(|up| up > at)
    }

    /// For how long it is taken to be restarting, out of `patience`: it was up, and does not come and go.
    pub(super) fn restarts_for(&self, patience: Duration) -> Option<Duration> {
        let left = self.left_at.filter(|_| self.proof == 0)?;
        patience.checked_sub(left.elapsed()).filter(|time| !time.is_zero())
    }

    pub fn reachable(&self) -> bool {
        self.state != NodeState::Down
    }
}

fn next_stamp() -> u64 {
    // 0 is nobody's.
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}
