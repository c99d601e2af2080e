//! Requests to nodes, over pooled connections: HTTP/1.1 of our own, in the task of the request that it is for. A
//! library's client runs each connection in a task beside it, and every event of a stream would pass from one to
//! the other.

mod body;
mod chunked;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod head;
mod http1;
mod http2;
mod peer;
mod pool;
mod tls;

pub use body::Body;
pub use peer::{Access, BadPeer, Peer};

use crate::net::Stream;
use bytes::Bytes;
use head::{HEAD_LIMIT, Head};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http1::Http1;
use peer::WITH_HEAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{ErrorKind, IoSlice};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A node that does not accept a connection in this time is not there.
const CONNECT: Duration = Duration::from_secs(2);
/// Bytes of a lifecycle answer; a larger one is an error.
const JSON_LIMIT: usize = 8 << 20;
/// A connection that its other end has closed meanwhile says so in this time; one that breaks later had taken the
/// request, and what becomes of that is the caller's to decide.
const STALE: Duration = Duration::from_millis(50);

/// Answers `1xx` before the real one.
const INFORMATIONAL: u32 = 16;

/// Sends requests to peers.
#[derive(Debug, Clone, Default)]
pub struct Upstream;

/// Why a node gave no usable answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UpstreamError {
    /// `refused`: the host is there, and nobody listens.
    #[error("not reachable: {why}")]
    Connect { why: String, refused: bool },
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("it answered {status}: {body}")]
    Status { status: StatusCode, body: String },
    #[error("its answer cannot be understood: {0}")]
    Malformed(String),
}

impl UpstreamError {
    fn connect(error: &std::io::Error) -> Self {
        let refused = error.kind() == ErrorKind::ConnectionRefused;
        Self::Connect { why: error.to_string(), refused }
    }
}

impl Upstream {
    /// Sends a request; the answer's body is still to be read. No time limit: the caller has one.
    pub async fn send(
        &self,
        peer: &Peer,
        method: Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Body>, UpstreamError> {
        if let Some(shared) = &peer.http2 {
            return http2::send(peer, shared, &method, path, headers, body).await;
        }
        let mut head = peer.head(&method, path, headers, body.len());
        let mut rest = body;
        if rest.len() <= WITH_HEAD {
            head.extend_from_slice(&std::mem::take(&mut rest));
        }
        let silent = || UpstreamError::Broken("it was closed before an answer".into());
        if let Some(mut stream) = peer.pool.take() {
            let asked = Instant::now();
            match exchange(&mut stream, &head, &rest).await? {
                Some(answer) => return Ok(answered(peer, stream, answer)),
                None if asked.elapsed() > STALE => return Err(silent()),
                None => {}
            }
        }
        let connected = pool::connect(&peer.address).await;
        let mut stream = connected.map_err(|e| UpstreamError::connect(&e))?;
        let answer = exchange(&mut stream, &head, &rest).await?.ok_or_else(silent)?;
        Ok(answered(peer, stream, answer))
    }

    /// A GET whose answer is JSON.
    pub async fn get<T: DeserializeOwned>(
        &self,
        peer: &Peer,
        path: &str,
        limit: Duration,
    ) -> Result<T, UpstreamError> {
        self.json(peer, Method::GET, path, Bytes::new(), limit).await
    }

    /// A POST of JSON whose answer is JSON.
    pub async fn post<T: DeserializeOwned>(
        &self,
        peer: &Peer,
        path: &str,
        body: &(impl Serialize + Sync),
        limit: Duration,
    ) -> Result<T, UpstreamError> {
        let body = serde_json::to_vec(body).map_err(|e| UpstreamError::Malformed(e.to_string()))?;
        self.json(peer, Method::POST, path, body.into(), limit).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        peer: &Peer,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<T, UpstreamError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let exchange = async {
            let response = self.send(peer, method, path, &headers, body).await?;
            let status = response.status();
            let body = response.into_body().whole(JSON_LIMIT).await?;
            if !status.is_success() {
                return Err(UpstreamError::Status {
                    status,
                    body: String::from_utf8_lossy(&body).into_owned(),
                });
            }
            serde_json::from_slice(&body).map_err(|e| UpstreamError::Malformed(format!("{path}: {e}")))
        };
        tokio::time::timeout(limit, exchange).await.unwrap_or(Err(UpstreamError::Timeout(limit)))
    }
}

/// Writes the request and reads the answer's head, and what has come behind it. `None` where the connection ends before
/// the first byte of an answer.
async fn exchange(
    stream: &mut Stream,
    head: &[u8],
    rest: &[u8],
) -> Result<Option<(Head, Vec<u8>)>, UpstreamError> {
    // A node may refuse before it has read everything: what it says counts, not that it no longer listens.
    let written = write_all(stream, head, rest).await;
    let (mut came, mut informational) = (Vec::with_capacity(2 << 10), 0);
    loop {
        match stream.read_buf(&mut came).await {
            Ok(0) if came.is_empty() => return Ok(None),
            Ok(0) => return Err(UpstreamError::Broken("it was closed within the head".into())),
            Err(_) if came.is_empty() => return Ok(None),
            Err(error) => return Err(UpstreamError::Broken(written.err().unwrap_or(error).to_string())),
            Ok(_) => {}
        }
        while let Some((head, size)) =
            head::parse(&came).map_err(|e| UpstreamError::Malformed(e.to_string()))?
        {
            came.drain(..size);
            match head.status {
                StatusCode::SWITCHING_PROTOCOLS => {
                    return Err(UpstreamError::Malformed("it switches to another protocol".into()));
                }
                // The real one is still to come.
                status if status.is_informational() && informational < INFORMATIONAL => informational += 1,
                status if status.is_informational() => {
                    return Err(UpstreamError::Malformed("it says that it works, and nothing else".into()));
                }
                _ => return Ok(Some((head, came))),
            }
        }
        if came.capacity() - came.len() < 1 << 10 {
            came.reserve(came.len().min(HEAD_LIMIT));
        }
    }
}

async fn write_all(stream: &mut Stream, head: &[u8], rest: &[u8]) -> std::io::Result<()> {
    let mut written = 0;
    while written < head.len() {
        written += match rest.is_empty() {
            true => stream.write(&head[written..]).await?,
            false => stream.write_vectored(&[IoSlice::new(&head[written..]), IoSlice::new(rest)]).await?,
        };
    }
    stream.write_all(&rest[written - head.len()..]).await?;
    // TLS may hold the last record back.
    stream.flush().await
}

fn answered(peer: &Peer, stream: Stream, (head, came): (Head, Vec<u8>)) -> Response<Body> {
    let body = Http1::new(stream, peer.pool.clone(), head.length, head.stays_open, &came);
    let mut response = Response::new(Body(body::Kind::Http1(body)));
    (*response.status_mut(), *response.headers_mut()) = (head.status, head.headers);
    response
}
