//! `GET /watch`: everything at once, then what changes, for gateways that would otherwise have to ask.

mod view;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{extract::State, response::Response};
use bytes::Bytes;
use futures_util::{Stream, stream};
use neuron_protocol::WatchEvent;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{App, error::ApiError, sse};
use view::View;

/// Watchers at once.
const MOST: usize = 64;
/// How often counts are looked at; a model's state is sent when it changes.
const LOOK: Duration = Duration::from_millis(200);
/// A stream that had nothing to say for so long says so.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Who watches.
pub(super) struct Watchers {
    places: Arc<Semaphore>,
    ever: AtomicBool,
}

impl Watchers {
    pub(super) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(MOST)), ever: AtomicBool::new(false) }
    }

    /// Whether anybody has watched since the start, and may again.
    pub(super) fn ever(&self) -> bool {
        self.ever.load(Relaxed)
    }

    fn join(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.ever.store(true, Relaxed);
        let full = |_| ApiError::overloaded("too many watch already");
        Arc::clone(&self.places).try_acquire_owned().map_err(full)
    }
}

pub(super) async fn watch(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let place = app.watchers.join()?;
    Ok(sse::response(events(app, place)))
}

struct Watch {
    app: Arc<App>,
    /// What the watcher knows.
    view: View,
    pending: VecDeque<WatchEvent>,
    spoke: Instant,
    _place: OwnedSemaphorePermit,
}

fn events(app: Arc<App>, place: OwnedSemaphorePermit) -> impl Stream<Item = Bytes> + Send {
    let view = View::of(&app);
    let pending = [WatchEvent::Snapshot(Box::new(view.snapshot(&app)))].into();
    let watch = Watch { app, view, pending, spoke: Instant::now(), _place: place };
    stream::unfold(watch, |mut watch| async move {
        let bytes = watch.next().await?;
        watch.spoke = Instant::now();
        Some((bytes, watch))
    })
}

impl Watch {
    /// `None`: the daemon stops.
    async fn next(&mut self) -> Option<Bytes> {
        let mut stopped = self.app.stopped.clone();
        let mut changes = self.app.registry.changes();
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(sse::named(&event));
            }
            tokio::select! {
                // An error means that the server was dropped.
                _ = stopped.wait_for(|stop| *stop) => return None,
                _ = changes.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            self.pending = self.view.update(&self.app).into();
            if self.pending.is_empty() && self.spoke.elapsed() >= KEEP_ALIVE {
                return Some(sse::comment());
            }
        }
    }
}
