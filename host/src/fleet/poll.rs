//! One task a node keeps its view fresh.

use super::hosts::Hosts;
use super::listen::{self, Deaf, Listener};
use super::{FleetState, Loads, Node, NodeState, NodeView};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::upstream::UpstreamError;
use arc_swap::ArcSwap;
use neuron_protocol::{Discovery, Health, ModelInfo, WatchEvent, feature};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Missed polls in a row after which a node that was up is down.
const MISSES: u32 = 3;
/// A node that went down this often in a row, each time within [`STEADY`] of coming up, has to prove itself.
const FLAPS: u32 = 3;
/// A node that stays up for so long is steady.
const STEADY: Duration = Duration::from_secs(60);
/// Good polls in a row that an unsteady node is up after.
const PROOF: u32 = 10;
/// An upstream that is up is asked this many times less often.
const UPSTREAM_PATIENCE: u32 = 10;

/// The polling tasks of all nodes.
pub struct Pollers {
    fleet: Arc<FleetState>,
    hosts: Arc<dyn Hosts>,
    metrics: Arc<Metrics>,
    config: Arc<ArcSwap<Config>>,
    tasks: TaskTracker,
    running: Mutex<Vec<(Arc<Node>, CancellationToken)>>,
    shutdown: CancellationToken,
    /// Reloads come from a thread that is not tokio's.
    runtime: Handle,
}

impl Pollers {
    /// `shutdown` ends all polling; the tasks are joined through `tasks`. Needs a tokio runtime.
    pub fn new(
        fleet: Arc<FleetState>,
        hosts: Arc<dyn Hosts>,
        metrics: Arc<Metrics>,
        config: Arc<ArcSwap<Config>>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            fleet,
            hosts,
            metrics,
            config,
            tasks,
            running: Mutex::default(),
            shutdown,
            runtime: Handle::current(),
        }
    }

    /// Follows the configuration: nodes that are new are polled, nodes that are gone are not, and the
    /// others are asked at once, then as often as it says now.
    pub fn apply(&self, config: &Config) {
        let mut running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (mut next, mut new, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for member in &config.nodes {
            if let Some(at) = running.iter().position(|(node, _)| node.config == *member) {
                let member = running.swap_remove(at);
                kept.push(member.0.clone());
                next.push(member);
                continue;
            }
            match Node::new(member) {
                Ok(node) => {
                    let member = (Arc::new(node), self.shutdown.child_token());
                    new.push(member.clone());
                    next.push(member);
                }
                Err(error) => {
                    tracing::error!(node = member.name, %error, "it is left out")
                }
            }
        }
        running.drain(..).for_each(|(_gone, stop)| stop.cancel());
        *running = next;
        self.fleet.set_members(running.iter().map(|(node, _)| node.clone()).collect());
        // A new one is asked anyway, and once is enough.
        kept.iter().for_each(|node| node.poke());
        new.into_iter().for_each(|(node, stop)| self.start(node, stop));
    }

    fn start(&self, node: Arc<Node>, stop: CancellationToken) {
        let (fleet, hosts, metrics) = (self.fleet.clone(), self.hosts.clone(), self.metrics.clone());
        let config = self.config.clone();
        let task = async move {
            let mut view = NodeView::unseen(&node);
            let polling = async {
                let mut ear = Ear::default();
                loop {
                    // What was heard since has been taken into the newest view.
                    let last = fleet.now().view(&node).map_or_else(|| view.clone(), |v| NodeView::clone(v));
                    let uptime = last.health.uptime_secs;
                    view = look(&*hosts, last).await;
                    record(&metrics, &view);
                    publish(&fleet, &config, view.clone());
                    ear.turn_to(&*hosts, &view, uptime).await;
                    let pause = pause(&config.load(), &view);
                    let next =
                        tokio::time::sleep(node.left_alone_for().map_or(pause, |time| time.min(pause)));
                    tokio::select! {
                        () = node.poke.notified() => {}
                        () = next => {}
                        () = ear.hear(&fleet, &config, &node) => {}
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = polling => {}
            }
            // By the task that set them, so that none comes back.
            forget(&metrics, &view);
        };
        self.tasks.spawn_on(task, &self.runtime);
    }
}

/// Between two looks. An upstream may be somebody else's, and count them.
fn pause(config: &Config, view: &NodeView) -> Duration {
    let is_patient = view.node.offer().is_some() && view.state == NodeState::Up;
    config.poll_interval * if is_patient { UPSTREAM_PATIENCE } else { 1 }
}

/// Listens to a node that can be listened to.
#[derive(Default)]
struct Ear {
    listener: Option<Listener>,
    /// The node knows no such thing.
    useless: bool,
}

impl Ear {
    /// Opens the stream where there is none. `uptime`: the node's before it was looked at.
    async fn turn_to(&mut self, hosts: &dyn Hosts, view: &NodeView, uptime: u64) {
        // Another daemon may have come in the place of one that knew no such thing.
        self.useless &= view.health.uptime_secs >= uptime;
        if view.state != NodeState::Up || self.useless || self.listener.is_some() {
            return;
        }
        match hosts.listen(&view.node).await {
            Ok(listener) => self.listener = Some(listener),
            Err(error) => {
                tracing::debug!(node = view.node.name, %error, "cannot be listened to");
                self.useless = matches!(error, Deaf::Unknown);
            }
        }
    }

    /// Takes in what the node says, until it says no more; for ever where there is nothing to listen to.
    async fn hear(&mut self, fleet: &FleetState, config: &ArcSwap<Config>, node: &Arc<Node>) {
        let Some(listener) = &mut self.listener else { return std::future::pending().await };
        let error = loop {
            match listener.next().await {
                Ok(events) => hear(fleet, config, node, events),
                Err(error) => break error,
            }
        };
        tracing::debug!(node = node.name, %error, "nothing more is heard");
        let short = listener.is_young();
        self.listener = None;
        fleet.modify(node, |view| {
            view.prefixes = None;
            view.loads.clear();
        });
        if short {
            // Opened anew at once, it would be a loop without a pause.
            std::future::pending().await
        }
    }
}

fn hear(fleet: &FleetState, config: &ArcSwap<Config>, node: &Arc<Node>, events: Vec<WatchEvent>) {
    fleet.modify(node, |view| {
        let known: Vec<String> = view.models.iter().map(|m| m.id.clone()).collect();
        events.into_iter().for_each(|event| listen::apply(view, event));
        take_note(view, &config.load(), &known);
    });
}

/// A model that was not there before counts as used now: it would otherwise be as old as its first look-up,
/// which is often its eviction. What one takes is learned.
fn take_note(view: &NodeView, config: &Config, known: &[String]) {
    for info in &view.models {
        let is_new = !known.contains(&info.id);
        let measured = info.vram_used_mb.filter(|&mb| mb > 0 && info.can_serve());
        if !is_new && measured.is_none() {
            continue;
        }
        let usage = view.node.usage(config.catalogue.id_of(&info.id));
        if is_new {
            usage.appeared();
        }
        if let Some(mb) = measured {
            usage.measured(mb);
        }
    }
}

/// Makes a view the newest one.
fn publish(fleet: &FleetState, config: &ArcSwap<Config>, view: NodeView) {
    let node = view.node.clone();
    fleet.modify(&node, |now| {
        let known: Vec<String> = now.models.iter().map(|m| m.id.clone()).collect();
        // What was heard while the node was asked is newer than what was known before.
        let (prefixes, loads) = (now.prefixes.take(), std::mem::take(&mut now.loads));
        *now = NodeView { prefixes, loads, ..view };
        take_note(now, &config.load(), &known);
    });
}

/// The next view of a node, from its answers or from their absence.
async fn look(hosts: &dyn Hosts, last: NodeView) -> NodeView {
    let (node, asked_at) = (last.node.clone(), Instant::now());
    match ask(hosts, &node, &last).await {
        Ok((discovery, health, models)) => {
            let proof = last.proof.saturating_sub(1);
            let state = if proof > 0 { NodeState::Down } else { NodeState::Up };
            if state == NodeState::Up && last.state != NodeState::Up {
                tracing::info!(node = node.name, models = models.len(), "node is up");
                say_what_it_lacks(&node, &discovery);
                node.breaker.succeeded();
            }
            let unsteady = || format!("it keeps going down; {proof} more good answers and it is up");
            // A daemon that was back before it was missed is another all the same.
            let is_another = last.state == NodeState::Down
                || last.closed_since.is_some()
                || health.uptime_secs < last.health.uptime_secs;
            let up_since = match state {
                NodeState::Up if is_another => Some(Instant::now()),
                _ => last.up_since,
            };
            let error = (proof > 0).then(unsteady);
            let left_at = last.left_at.filter(|_| state == NodeState::Down);
            let seen_at = Some(asked_at);
            let seen = NodeView { state, discovery, health, models, error, seen_at, ..last };
            NodeView { missed: 0, closed_since: None, proof, up_since, left_at, ..seen }
        }
        Err(error) => {
            let missed = last.missed + 1;
            // A refused connection is an answer: nobody is there.
            let gone = matches!(error, UpstreamError::Connect { .. }) && missed > 1;
            let is_closed = matches!(error, UpstreamError::Connect { refused: true, .. });
            let closed_since = is_closed.then(|| last.closed_since.unwrap_or(asked_at));
            let state = match last.state {
                NodeState::Up | NodeState::Suspect if missed < MISSES && !gone => NodeState::Suspect,
                _ => NodeState::Down,
            };
            if state != last.state || missed == 1 {
                tracing::warn!(node = node.name, %error, ?state, "node does not answer");
            }
            let mut view = NodeView { state, missed, error: Some(error.to_string()), closed_since, ..last };
            if state == NodeState::Down
                && let Some(since) = view.up_since.take()
            {
                view.left_at = Some(Instant::now());
                view.flaps = if since.elapsed() < STEADY { view.flaps + 1 } else { 0 };
                view.proof = if view.flaps >= FLAPS { PROOF } else { 0 };
            }
            // It goes once it has ended what it has begun.
            let is_at_work = node.in_flight() > 0 || node.loading.try_lock().is_err();
            if view.left_at.is_some() && view.is_ending() && is_at_work {
                view.left_at = Some(asked_at);
            }
            view
        }
    }
}

/// Two gateways on one fleet need conditions on unloads, lest one takes what the other uses.
fn say_what_it_lacks(node: &Node, discovery: &Discovery) {
    if node.offer().is_none() && !discovery.has(feature::CONDITIONAL_UNLOAD) {
        tracing::info!(
            node = node.name,
            "it unloads without conditions: no other gateway may load and unload there"
        );
    }
}

async fn ask(
    hosts: &dyn Hosts,
    node: &Node,
    last: &NodeView,
) -> Result<(Discovery, Health, Vec<ModelInfo>), UpstreamError> {
    // What a host is changes only with its daemon's restart, which shows as missed polls or a young uptime.
    let health = hosts.health(node).await?;
    let restarted = last.state != NodeState::Up || health.uptime_secs < last.health.uptime_secs;
    let discovery = match restarted {
        true => hosts.discovery(node).await?,
        false => last.discovery.clone(),
    };
    Ok((discovery, health, hosts.models(node).await?))
}

fn record(metrics: &Metrics, view: &NodeView) {
    let name = view.node.name.as_str();
    metrics.node_up.with_label_values(&[name]).set(i64::from(view.reachable()));
    let is_open = !view.node.breaker.is_closed();
    metrics.node_breaker_open.with_label_values(&[name]).set(i64::from(is_open));
    for device in &view.health.devices {
        let index = device.index.to_string();
        for (kind, mb) in [("used", device.vram_used_mb), ("free", device.vram_free_mb)] {
            let bytes = i64::try_from(mb.saturating_mul(1 << 20)).unwrap_or(i64::MAX);
            metrics.device_memory.with_label_values(&[name, index.as_str(), kind]).set(bytes);
        }
    }
}

/// The series of a node that has left.
fn forget(metrics: &Metrics, view: &NodeView) {
    let name = view.node.name.as_str();
    for gauge in [&metrics.node_up, &metrics.node_breaker_open] {
        let _was_never_set = gauge.remove_label_values(&[name]);
    }
    for device in &view.health.devices {
        for kind in ["used", "free"] {
            let labels = [name, &device.index.to_string(), kind];
            let _was_never_set = metrics.device_memory.remove_label_values(&labels);
        }
    }
}

/// A view that is newer than anything a poller has seen, for whoever must not wait for the next poll.
pub(super) async fn refresh(loads: &Loads, node: &Arc<Node>) {
    let last = loads.fleet.now().view(node).cloned();
    if let Some(last) = last {
        let view = look(&*loads.hosts, NodeView::clone(&last)).await;
        // Whether it is down is for its poller to say: questions in quick succession are missed together.
        if view.missed == 0 {
            publish(&loads.fleet, &loads.config, view);
        }
    }
}
