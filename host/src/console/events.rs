//! Server-sent events: everything once, then what has changed since.

use super::items::{self, Items};
use crate::admin::{Operator, Refused};
use crate::config::Role;
use crate::gateway::Gateway;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How often it is looked for changes.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A connection on which nothing else was said for so long is told that it lives.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// Consoles that are open at once.
const WATCHERS: usize = 64;

/// What all consoles are shown: worked out once, however many there are.
pub(crate) struct Feed {
    last: Mutex<Option<(Instant, Arc<Items>)>>,
    watchers: Arc<Semaphore>,
}

impl Default for Feed {
    fn default() -> Self {
        Self { last: Mutex::default(), watchers: Arc::new(Semaphore::new(WATCHERS)) }
    }
}

impl Feed {
    fn now(&self, gateway: &Gateway) -> Arc<Items> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((at, items)) if at.elapsed() < LOOK_EVERY / 2 => items.clone(),
            _ => {
                let items = Arc::new(items::collect(gateway));
                *last = Some((Instant::now(), items.clone()));
                items
            }
        }
    }
}

/// One console's place in the feed.
struct Watcher {
    gateway: Arc<Gateway>,
    operator: Operator,
    /// What it was told.
    known: Option<Arc<Items>>,
    spoke: Instant,
    over: bool,
    _permit: OwnedSemaphorePermit,
}

pub(super) async fn events(
    State(gateway): State<Arc<Gateway>>,
    Extension(operator): Extension<Operator>,
) -> Response {
    let Ok(permit) = gateway.feed.watchers.clone().try_acquire_owned() else {
        let message = format!("{WATCHERS} consoles are open already");
        return Refused(StatusCode::SERVICE_UNAVAILABLE, message).into_response();
    };
    let watcher =
        Watcher { gateway, operator, known: None, spoke: Instant::now(), over: false, _permit: permit };
    let events = stream::unfold(watcher, async |mut watcher| {
        let text = watcher.next().await?;
        Some((Ok::<_, Infallible>(text), watcher))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

impl Watcher {
    /// The next event; `None` at the end. Nothing is worked out before the last one was taken.
    async fn next(&mut self) -> Option<String> {
        loop {
            if self.over {
                return None;
            }
            if let Some(known) = self.known.take() {
                self.gateway.shutdown.clone().run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await?;
                self.known = Some(known);
            }
            if !self.operator.is_still(&self.gateway.config.load(), Role::Viewer) {
                self.over = true;
                return Some("event: over\ndata: {}\n\n".to_owned());
            }
            let now = self.gateway.feed.now(&self.gateway);
            let text = match &self.known {
                None => Some(everything(&self.gateway, &now)),
                Some(known) => changes(known, &now),
            };
            self.known = Some(now);
            match text {
                Some(text) => {
                    self.spoke = Instant::now();
                    return Some(text);
                }
                None if self.spoke.elapsed() >= ALIVE_EVERY => {
                    self.spoke = Instant::now();
                    return Some(": alive\n\n".to_owned());
                }
                None => {}
            }
        }
    }
}

fn everything(gateway: &Gateway, now: &Items) -> String {
    let samples = serde_json::to_string(&gateway.traffic.samples.list()).unwrap_or_else(|_| "[]".into());
    let mut out = format!("event: all\ndata: {{\"samples\":{samples},\"set\":");
    object(&mut out, now.iter());
    out + "}\n\n"
}

/// `None` where there are none.
fn changes(known: &Items, now: &Items) -> Option<String> {
    let set: Vec<_> = now.iter().filter(|(key, text)| known.get(*key) != Some(*text)).collect();
    let gone: Vec<&String> = known.keys().filter(|key| !now.contains_key(*key)).collect();
    if set.is_empty() && gone.is_empty() {
        return None;
    }
    let mut out = "event: some\ndata: {\"set\":".to_owned();
    object(&mut out, set.into_iter());
    let gone = serde_json::to_string(&gone).unwrap_or_else(|_| "[]".into());
    // Writing to a String cannot fail.
    let _infallible = write!(out, ",\"gone\":{gone}}}\n\n");
    Some(out)
}

/// Each text is JSON on one line already.
fn object<'a>(out: &mut String, items: impl Iterator<Item = (&'a String, &'a Arc<str>)>) {
    for (place, (key, text)) in items.enumerate() {
        out.push(if place == 0 { '{' } else { ',' });
        out.push_str(&serde_json::to_string(key).unwrap_or_default());
        out.push(':');
        out.push_str(text);
    }
    match out.ends_with(':') {
        true => out.push_str("{}"),
        false => out.push('}'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_told() {
        let items = |of: &[(&str, &str)]| -> Items {
            of.iter().map(|(key, text)| ((*key).to_owned(), Arc::from(*text))).collect()
        };
        let old = items(&[("node/a", "1"), ("node/b", "2"), ("node/\"c\"", "3")]);
        assert_eq!(changes(&old, &old.clone()), None);
        let text = changes(&old, &items(&[("node/a", "1"), ("node/b", "4")])).unwrap();
        assert_eq!(text, "event: some\ndata: {\"set\":{\"node/b\":4},\"gone\":[\"node/\\\"c\\\"\"]}\n\n");
        let text = changes(&old, &items(&[("node/a", "1"), ("node/b", "2")])).unwrap();
        assert!(text.contains("\"set\":{},\"gone\""), "{text}");
    }
}
