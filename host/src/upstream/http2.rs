//! HTTP/2 to a node, where the configuration says so: one connection for all requests, by hyper. What that costs each
//! event is told in docs/benchmarks/gateway.md; it is for nodes behind something that speaks nothing else, or where
//! connections are dear.

use super::peer::Peer;
use super::{Body, UpstreamError, body::Kind, pool};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::JoinSet;

/// A connection that was silent for so long is asked whether its other end is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// What a node may send of one answer before somebody takes it.
const WINDOW: u32 = 1 << 20;

/// The connection to one node, and the task that runs it; it ends with its node.
#[derive(Debug, Default)]
pub(super) struct Shared {
    open: Mutex<Open>,
    /// One at a time makes a new connection.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Open {
    sender: Option<SendRequest<Full<Bytes>>>,
    /// Earlier ones are ended when their last answer has been read.
    running: JoinSet<()>,
}

impl Shared {
    fn sender(&self) -> Option<SendRequest<Full<Bytes>>> {
        self.lock().sender.clone().filter(|sender| !sender.is_closed())
    }

    async fn connect(&self, peer: &Peer) -> Result<SendRequest<Full<Bytes>>, UpstreamError> {
        let _turn = self.connecting.lock().await;
        // Somebody else was faster.
        if let Some(sender) = self.sender() {
            return Ok(sender);
        }
        let stream = pool::connect(&peer.address).await.map_err(|e| UpstreamError::connect(&e))?;
        let mut builder = Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(KEEPALIVE).keep_alive_while_idle(true);
        builder.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW * 16);
        let shaken = builder.handshake(TokioIo::new(stream)).await;
        let failed = |e: hyper::Error| UpstreamError::Connect { why: e.to_string(), refused: false };
        let (sender, connection) = shaken.map_err(failed)?;
        let mut open = self.lock();
        while open.running.try_join_next().is_some() {}
        open.running.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a node broke");
            }
        });
        open.sender = Some(sender.clone());
        Ok(sender)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a request over the connection that there is, or a new one. A request that a closing connection gave back
/// unsent goes over a new one.
pub(super) async fn send(
    peer: &Peer,
    shared: &Arc<Shared>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response<Body>, UpstreamError> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = peer.uri(path)?;
    *request.headers_mut() = headers.clone();
    request.headers_mut().extend(peer.own.clone());
    let mut known = shared.sender();
    loop {
        let is_known = known.is_some();
        let mut sender = match known.take() {
            Some(sender) => sender,
            None => shared.connect(peer).await?,
        };
        match sender.try_send_request(request).await {
            Ok(response) => {
                let wrap = |body| {
                    Body(Kind::Http2(Box::new(Http2 { body, failed: false, _connection: shared.clone() })))
                };
                return Ok(response.map(wrap));
            }
            Err(mut error) => match error.take_message() {
                Some(unsent) if is_known => request = unsent,
                _ => return Err(UpstreamError::Broken(chain(error.error()))),
            },
        }
    }
}

/// An answer's body.
#[derive(Debug)]
pub(super) struct Http2 {
    body: Incoming,
    failed: bool,
    /// It lives as long as what comes over it, though its node may be configured anew.
    _connection: Arc<Shared>,
}

impl Http2 {
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        while !self.failed {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => {
                    self.failed = true;
                    return Poll::Ready(Some(Err(UpstreamError::Broken(chain(&error)))));
                }
                // Trailers say nothing that is acted on.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Poll::Ready(Some(Ok(data))),
                    _ => {}
                },
            }
        }
        Poll::Ready(None)
    }

    pub(super) fn is_all(&self) -> bool {
        !self.failed && self.body.is_end_stream()
    }
}

/// What it says and why: the first alone is seldom of use.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
