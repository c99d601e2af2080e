//! Requests to nodes, over pooled connections: HTTP/1.1 of our own, in the task of the request that it is for. A
//! library's client runs each connection in a task beside it, and every event of a stream would pass from one to
//! the other.

mod body;
mod chunked;
mod head;
mod pool;

pub use body::Body;

use bytes::Bytes;
use head::{HEAD_LIMIT, Head};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use pool::Pool;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A node that does not accept a connection in this time is not there.
const CONNECT: Duration = Duration::from_secs(2);
/// Bytes of a lifecycle answer; a larger one is an error.
const JSON_LIMIT: usize = 8 << 20;
/// A connection that its other end has closed meanwhile says so in this time; one that breaks later had taken the
/// request, and what becomes of that is the caller's to decide.
const STALE: Duration = Duration::from_millis(50);
/// Bytes of a body that are copied behind the head, so that both are written at once.
const WITH_HEAD: usize = 16 << 10;

/// Sends requests to peers.
#[derive(Debug, Clone, Default)]
pub struct Upstream;

/// Where requests go, and as whom.
#[derive(Debug, Clone)]
pub struct Peer {
    /// `http://host:port`
    pub endpoint: String,
    host: String,
    port: u16,
    /// `host: …` and `authorization: …`, as they are sent.
    fields: Arc<[u8]>,
    pool: Arc<Pool>,
}

/// An endpoint that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPeer {
    #[error("{0:?}, expected http://HOST:PORT")]
    Endpoint(String),
    #[error("its token cannot be sent in a header")]
    Token,
}

impl BadPeer {
    /// The key of cortex.toml that is to be mended.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Endpoint(_) => "endpoint",
            Self::Token => "token_env",
        }
    }
}

/// Why a node gave no usable answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UpstreamError {
    #[error("not reachable: {0}")]
    Connect(String),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("it answered {status}: {body}")]
    Status { status: StatusCode, body: String },
    #[error("its answer cannot be understood: {0}")]
    Malformed(String),
}

impl Peer {
    /// `endpoint`: `http://host:port`.
    pub fn new(endpoint: &str, token: Option<&str>) -> Result<Self, BadPeer> {
        let bad = || BadPeer::Endpoint(endpoint.to_owned());
        let uri: http::Uri = endpoint.parse().map_err(|_| bad())?;
        let is_plain = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none();
        // Names and passwords in an address would go to the node in its `host`.
        let authority = uri.authority().filter(|a| is_plain && !a.as_str().contains('@')).ok_or_else(bad)?;
        let mut fields = format!("host: {authority}\r\n").into_bytes();
        if let Some(token) = token {
            let value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| BadPeer::Token)?;
            fields.extend([b"authorization: ", value.as_bytes(), b"\r\n"].concat());
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self { endpoint: endpoint.to_owned(), host, port, fields: fields.into(), pool: Arc::default() })
    }

    fn head(&self, method: &Method, path: &str, headers: &HeaderMap, length: usize) -> Vec<u8> {
        let mut head = Vec::with_capacity(256 + self.fields.len() + path.len() + length.min(WITH_HEAD));
        head.extend_from_slice(method.as_str().as_bytes());
        head.push(b' ');
        head.extend_from_slice(path.as_bytes());
        head.extend_from_slice(b" HTTP/1.1\r\n");
        head.extend_from_slice(&self.fields);
        for (name, value) in headers {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes());
        head
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
        let connected = pool::connect(&peer.host, peer.port).await;
        let mut stream = connected.map_err(|e| UpstreamError::Connect(e.to_string()))?;
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
    stream: &mut TcpStream,
    head: &[u8],
    rest: &[u8],
) -> Result<Option<(Head, Vec<u8>)>, UpstreamError> {
    // A node may refuse before it has read everything: what it says counts, not that it no longer listens.
    let written = write_all(stream, head, rest).await;
    let mut came = Vec::with_capacity(2 << 10);
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
                status if status.is_informational() => {}
                _ => return Ok(Some((head, came))),
            }
        }
        if came.capacity() - came.len() < 1 << 10 {
            came.reserve(came.len().min(HEAD_LIMIT));
        }
    }
}

async fn write_all(stream: &mut TcpStream, head: &[u8], rest: &[u8]) -> std::io::Result<()> {
    if rest.is_empty() {
        return stream.write_all(head).await;
    }
    let mut written = 0;
    while written < head.len() {
        written += stream.write_vectored(&[IoSlice::new(&head[written..]), IoSlice::new(rest)]).await?;
    }
    stream.write_all(&rest[written - head.len()..]).await
}

fn answered(peer: &Peer, stream: TcpStream, (head, came): (Head, Vec<u8>)) -> Response<Body> {
    let body = Body::new(stream, peer.pool.clone(), head.length, head.stays_open, &came);
    let mut response = Response::new(body);
    (*response.status_mut(), *response.headers_mut()) = (head.status, head.headers);
    response
}
