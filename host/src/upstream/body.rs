//! The body of a node's answer, whatever HTTP it comes over.

use super::UpstreamError;
use super::http1::Http1;
use super::http2::Http2;
use bytes::Bytes;
use std::future::poll_fn;
use std::task::{Context, Poll};

/// Dropped before its end it tells the node that nobody wants the rest: the connection closes, or its stream is reset.
#[derive(Debug)]
pub struct Body(pub(super) Kind);

#[derive(Debug)]
pub(super) enum Kind {
    Http1(Http1),
    Http2(Box<Http2>),
}

impl Body {
    /// All that has come of it, at least one byte; `None` at its end.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        match &mut self.0 {
            Kind::Http1(body) => body.poll_data(cx),
            Kind::Http2(body) => body.poll_data(cx),
        }
    }

    /// All of it; an error past `limit` bytes.
    pub async fn whole(mut self, limit: usize) -> Result<Bytes, UpstreamError> {
        let mut all = Vec::new();
        while let Some(data) = poll_fn(|cx| self.poll_data(cx)).await.transpose()? {
            if all.len() + data.len() > limit {
                return Err(UpstreamError::Malformed(format!("it is longer than {limit} bytes")));
            }
            if all.is_empty() && self.is_all() {
                return Ok(data);
            }
            all.extend_from_slice(&data);
        }
        Ok(all.into())
    }

    /// What was read last was the rest, and nothing is left to be told.
    fn is_all(&self) -> bool {
        match &self.0 {
            Kind::Http1(body) => body.is_all(),
            Kind::Http2(body) => body.is_all(),
        }
    }
}
