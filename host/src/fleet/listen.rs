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
                (None, false) => view.models.push(*model),
                (Some(at), true) => drop(view.models.remove(at)),
                (None, true) => {}
            }
        }
        // What has changed was used just now; how long it was idle is left out of these events.
        WatchEvent::Load(mut load) => match view.health.models.iter_mut().find(|m| m.id == load.id) {
            Some(known) => {
                load.idle_ms = load.idle_ms.or(known.idle_ms.map(|_| 0));
                *known = *load;
            }
            None => view.health.models.push(*load),
        },
        WatchEvent::Device(device) => {
            match view.health.devices.iter_mut().find(|d| d.index == device.index) {
                Some(known) => *known = device,
                None => view.health.devices.push(device),
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
