//! A node's `/watch`: what changes there, as it changes. Polling goes on beside it, slowly enough to cost
//! nothing, so that a node that lies or falls silent here is found out as every other is.

use super::NodeView;
use super::prefixes::Prefixes;
use crate::sse::{self, Framer};
use crate::upstream::{Body, Peer, Upstream, UpstreamError};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use neuron_protocol::{LoadPhase, ModelStatus, PrefixChanges, WatchEvent};
use std::future::poll_fn;
use std::time::Duration;
use tokio::time::Instant;

/// The head of the answer; a node that takes longer is asked again later.
const HEAD: Duration = Duration::from_secs(3);
/// A node speaks up every ten seconds, be it to say nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// Loads under way that are kept of one node; what it says beyond is passed over.
const MOST_LOADS: usize = 64;
/// Models and devices that are kept of one node, far more than any has.
const MOST_MODELS: usize = 4096;
const MOST_DEVICES: usize = 256;

/// An open stream of events.
pub struct Listener {
    body: Body,
    framer: Framer,
    opened: Instant,
    /// When it last spoke up.
    heard: Instant,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Deaf {
    /// The node knows no such thing; asking again is of no use until it is another one.
    #[error("it has no /watch")]
    Unknown,
    #[error(transparent)]
    Failed(#[from] UpstreamError),
}

impl Listener {
    pub(super) async fn open(upstream: &Upstream, peer: &Peer) -> Result<Self, Deaf> {
        let headers = HeaderMap::new();
        let asked = upstream.send(peer, Method::GET, "/watch", &headers, Bytes::new());
        let response =
            tokio::time::timeout(HEAD, asked).await.map_err(|_| UpstreamError::Timeout(HEAD))??;
        let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        match response.status() {
            // Something else that answers to every path.
            StatusCode::OK if !kind.is_some_and(|kind| kind.starts_with(b"text/event-stream")) => {
                Err(Deaf::Unknown)
            }
            StatusCode::OK => {
                let now = Instant::now();
                Ok(Self { body: response.into_body(), framer: Framer::default(), opened: now, heard: now })
            }
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                Err(Deaf::Unknown)
            }
            status => Err(UpstreamError::Status { status, body: String::new() }.into()),
        }
    }

    /// It has not been open for long.
    pub(super) fn is_young(&self) -> bool {
        self.opened.elapsed() < HEAD
    }

    /// The next events, one or several; an error ends the stream. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Vec<WatchEvent>, UpstreamError> {
        loop {
            let data = poll_fn(|cx| self.body.poll_data(cx));
            let data = tokio::time::timeout_at(self.heard + SILENCE, data).await;
            let data = data.map_err(|_| UpstreamError::Timeout(SILENCE))?;
            self.heard = Instant::now();
            let ended = || UpstreamError::Broken("its /watch ended".into());
            let data = data.ok_or_else(ended)??;
            let whole = self.framer.push(data).map_err(|e| UpstreamError::Malformed(e.to_string()))?;
            let events: Result<Vec<WatchEvent>, _> =
                sse::events(whole.as_deref().unwrap_or_default()).filter_map(event).collect();
            let events = events.map_err(|e| UpstreamError::Malformed(format!("/watch: {e}")))?;
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

/// `None` for comments.
fn event(event: sse::Event<'_>) -> Option<serde_json::Result<WatchEvent>> {
    let (name, data) = (event.name()?, event.data()?);
    Some(WatchEvent::parse(name, &mut serde_json::Deserializer::from_slice(&data)))
}

/// A stream's bytes into a view; for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    use crate::config::{NodeConfig, Serves};
    use crate::upstream::Access;
    let access = Access { endpoint: "http://h".into(), ..Access::default() };
    let config = NodeConfig { name: "n".into(), access, serves: Serves::Neuron };
    let Ok(node) = super::Node::new(&config) else { return };
    let mut view = NodeView::unseen(&std::sync::Arc::new(node));
    sse::events(data).filter_map(event).filter_map(Result::ok).for_each(|event| apply(&mut view, event));
    view.reindex();
    assert!(view.models.len() <= MOST_MODELS || data.len() > MOST_MODELS);
}

/// Takes an event into the view.
pub(super) fn apply(view: &mut NodeView, event: WatchEvent) {
    match event {
        WatchEvent::Snapshot(snapshot) => {
            view.health = snapshot.health;
            view.models = snapshot.models;
            let mut prefixes = Prefixes::default();
            let known = |changes: &&PrefixChanges| view.models.iter().any(|m| m.id == changes.model);
            snapshot.prefixes.iter().filter(known).for_each(|changes| prefixes.apply(changes));
            view.prefixes = Some(prefixes);
            view.loads = snapshot.loads;
            view.loads.truncate(MOST_LOADS);
        }
        WatchEvent::Model(model) => {
            let at = view.models.iter().position(|m| m.id == model.id);
            // One that has a reason not to serve is still listed.
            let gone = model.status == ModelStatus::Unloaded && model.servable.is_none();
            if gone {
                view.health.models.retain(|m| m.id != model.id);
                if let Some(prefixes) = &mut view.prefixes {
                    prefixes.forget(&model.id);
                }
            }
            match (at, gone) {
                (Some(at), false) => view.models[at] = *model,
                (None, false) if view.models.len() < MOST_MODELS => view.models.push(*model),
                (Some(at), true) => drop(view.models.remove(at)),
                (None, _) => {}
            }
        }
        // What has changed was used just now; how long it was idle is left out of these events.
        WatchEvent::Load(mut load) => {
            let all = &mut view.health.models;
            match all.iter().position(|m| m.id == load.id) {
                Some(at) => {
                    load.idle_ms = load.idle_ms.or(all[at].idle_ms.map(|_| 0));
                    all[at] = *load;
                }
                None if all.len() < MOST_MODELS => all.push(*load),
                None => {}
            }
        }
        WatchEvent::Device(device) => {
            let all = &mut view.health.devices;
            match all.iter().position(|d| d.index == device.index) {
                Some(at) => all[at] = device,
                None if all.len() < MOST_DEVICES => all.push(device),
                None => {}
            }
        }
        WatchEvent::Progress(progress) => {
            view.loads.retain(|load| load.model != progress.model);
            let ended = matches!(progress.phase, LoadPhase::Loaded | LoadPhase::Failed);
            if !ended && view.loads.len() < MOST_LOADS {
                view.loads.push(progress);
            }
        }
        // Of models that it has: any number of others could be named.
        WatchEvent::Prefixes(changes) if view.models.iter().any(|m| m.id == changes.model) => {
            view.prefixes.get_or_insert_default().apply(&changes);
        }
        WatchEvent::Prefixes(_) => {}
        WatchEvent::Unknown => {}
    }
}
