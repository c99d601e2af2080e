//! Requests to nodes, over pooled connections.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// A node that does not accept a connection in this time is not there.
const CONNECT: Duration = Duration::from_secs(2);
/// A connection that was silent for this long is asked whether its other end is still there, and again
/// this often; a host that lost its power is found out even in the middle of an answer.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Below the idle time-out of the servers that nodes run, so a request seldom meets a closing connection.
const IDLE: Duration = Duration::from_secs(50);
/// Idle connections kept to each node.
const IDLE_CONNECTIONS: usize = 64;
/// Bytes of a lifecycle answer; a larger one is an error.
const JSON_LIMIT: usize = 8 << 20;

/// The pool of connections to all nodes.
#[derive(Clone)]
pub struct Upstream {
    client: Client<HttpConnector, Full<Bytes>>,
}

/// Where a request goes, and as whom.
#[derive(Debug, Clone)]
pub struct Peer {
    /// `http://host:port`
    pub endpoint: String,
    /// `Bearer …`, marked sensitive.
    pub authorization: Option<HeaderValue>,
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

impl Default for Upstream {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_keepalive(Some(KEEPALIVE));
        connector.set_keepalive_interval(Some(KEEPALIVE));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector);
        Self { client }
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
    ) -> Result<Response<Incoming>, UpstreamError> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", peer.endpoint));
        if let Some(own) = request.headers_mut() {
            own.extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
            own.extend(peer.authorization.clone().map(|value| (header::AUTHORIZATION, value)));
        }
        let request = request.body(Full::new(body)).map_err(|e| UpstreamError::Malformed(e.to_string()))?;
        self.client.request(request).await.map_err(|e| {
            let cause = root(&e);
            if e.is_connect() { UpstreamError::Connect(cause) } else { UpstreamError::Broken(cause) }
        })
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
            let body = Limited::new(response.into_body(), JSON_LIMIT).collect().await;
            let body = body.map_err(|e| UpstreamError::Broken(e.to_string()))?.to_bytes();
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

/// The innermost cause: the outer ones only say that a request failed.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
