//! Server-sent events as OpenAI writes them: `data: {…}`, an empty line, and `[DONE]` at the end.

use std::convert::Infallible;

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use neuron_protocol::WatchEvent;
use serde::Serialize;

/// A stream of events, already framed, as a response. Nothing on the way may hold it back.
pub(super) fn response(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let mut response = Body::from_stream(events.map(Ok::<_, Infallible>)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// One event.
pub(super) fn event(data: &impl Serialize) -> Bytes {
    // Maps with text keys: it cannot fail.
    let json = serde_json::to_string(data).unwrap_or_default();
    Bytes::from(format!("data: {json}\n\n"))
}

/// An event of `/watch`, under its name.
pub(super) fn named(event: &WatchEvent) -> Bytes {
    // Maps with text keys: it cannot fail.
    let data = serde_json::to_string(event).unwrap_or_default();
    Bytes::from(format!("event: {}\ndata: {data}\n\n", event.name()))
}

/// Nothing, said so that the other side sees that the connection lives.
pub(super) fn comment() -> Bytes {
    Bytes::from_static(b":\n\n")
}

/// The last event.
pub(super) fn done() -> Bytes {
    Bytes::from_static(b"data: [DONE]\n\n")
}
