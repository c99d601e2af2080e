//! A client that sees raw bytes.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client as Inner, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Clone)]
pub struct Client {
    inner: Inner<HttpConnector, Full<Bytes>>,
    pub base: String,
    /// Sent where a call says nothing else.
    pub bearer: Option<String>,
}

pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

/// A streamed answer, frame by frame.
pub struct Stream {
    pub status: u16,
    body: Incoming,
}

impl Client {
    pub fn new(base: &str) -> Self {
        Self { inner: Inner::builder(TokioExecutor::new()).build_http(), base: base.to_owned(), bearer: None }
    }

    pub fn with_key(&self, key: &str) -> Self {
        Self { bearer: Some(key.to_owned()), ..self.clone() }
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.base.strip_prefix("http://").unwrap().parse().unwrap()
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<Incoming> {
        let mut request = http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        let bearer =
            self.bearer.as_ref().filter(|_| !headers.iter().any(|(name, _)| *name == "authorization"));
        if let Some(key) = bearer {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(60), self.inner.request(request)).await;
        answer.expect("no answer within 60 s").unwrap()
    }

    pub async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let (parts, body) = self.send(method, path, headers, body).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, &[], body.to_string()).await
    }

    /// `None` where the connection breaks.
    pub async fn try_post(&self, path: &str, body: impl Into<Bytes>) -> Option<Answer> {
        let request = http::Request::post(format!("{}{path}", self.base)).body(Full::new(body.into()));
        let (parts, body) = self.inner.request(request.unwrap()).await.ok()?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    pub async fn stream(&self, path: &str, body: &Value) -> Stream {
        let (parts, body) = self.send("POST", path, &[], body.to_string()).await.into_parts();
        Stream { status: parts.status.as_u16(), body }
    }
}

/// Server-sent events of a stream.
pub struct Events {
    stream: Stream,
    rest: String,
}

impl Client {
    pub async fn events(&self, path: &str) -> Events {
        let (parts, body) = self.send("GET", path, &[], "").await.into_parts();
        Events { stream: Stream { status: parts.status.as_u16(), body }, rest: String::new() }
    }
}

impl Events {
    /// Name and data of the next; `None` at the end.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.rest.split_once("\n\n") {
                let field =
                    |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let said = field("event: ").zip(field("data: "));
                self.rest = rest.to_owned();
                match said {
                    Some((name, data)) => return Some((name, serde_json::from_str(&data).unwrap())),
                    None => continue,
                }
            }
            let more = self.stream.next().await?;
            self.rest.push_str(&more);
        }
    }

    pub fn status(&self) -> u16 {
        self.stream.status
    }
}

/// Bytes as they are, on a connection of their own; returns it, for what clients do too seldom.
pub async fn raw(base: &str, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(base.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// All that comes until the other side closes; fails the test after 30 s.
pub async fn until_closed(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let reading = stream.read_to_end(&mut all);
    tokio::time::timeout(Duration::from_secs(30), reading).await.expect("not closed after 30 s").unwrap();
    String::from_utf8(all).unwrap()
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

impl Stream {
    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Option<String> {
        let frame = tokio::time::timeout(Duration::from_secs(60), self.body.frame()).await;
        let frame = frame.expect("no frame within 60 s")?;
        Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
    }

    pub async fn rest(&mut self) -> String {
        let mut all = String::new();
        while let Some(piece) = self.next().await {
            all.push_str(&piece);
        }
        all
    }
}
