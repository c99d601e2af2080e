//! The body of a node's answer over HTTP/1.1, read in the task that wants it: all that has come at once, without its
//! chunks.

use super::UpstreamError;
use super::chunked::Chunked;
use super::head::Length;
use super::pool::Pool;
use crate::net::Stream;
use bytes::Bytes;
use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes that are read at once; what they come into is each thread's, not each connection's: ten thousand
/// streams that say nothing need none.
pub(super) const READ: usize = 64 << 10;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// Dropped before its end it closes the connection, and so tells the node that nobody wants the rest.
#[derive(Debug)]
pub(super) struct Http1 {
    /// `None` once all has been read.
    stream: Option<Stream>,
    pool: Arc<Pool>,
    /// The connection may go back into the pool.
    stays_open: bool,
    rest: Rest,
    /// What came with the head.
    ready: Vec<u8>,
    /// Told once what came before it has been given.
    failed: Option<UpstreamError>,
}

#[derive(Debug)]
enum Rest {
    Exact(u64),
    Chunked(Chunked),
    UntilClose,
    Done,
}

impl Http1 {
    /// `came`: bytes that were read behind the head.
    pub(super) fn new(
        stream: Stream,
        pool: Arc<Pool>,
        length: Length,
        stays_open: bool,
        came: &[u8],
    ) -> Self {
        let rest = match length {
            Length::Exact(length) => Rest::Exact(length),
            Length::Chunked => Rest::Chunked(Chunked::default()),
            Length::UntilClose => Rest::UntilClose,
        };
        let mut body = Self { stream: Some(stream), pool, stays_open, rest, ready: Vec::new(), failed: None };
        let mut ready = Vec::new();
        if let Err(error) = body.take(came, &mut ready) {
            body.fail(error);
        }
        body.ready = ready;
        body
    }

    /// Takes in what has come.
    fn take(&mut self, came: &[u8], out: &mut Vec<u8>) -> Result<(), UpstreamError> {
        let taken = match &mut self.rest {
            Rest::Exact(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(came.len());
                out.extend_from_slice(&came[..here]);
                *left -= here as u64;
                here
            }
            Rest::Chunked(chunks) => {
                chunks.decode(came, out).map_err(|e| UpstreamError::Broken(e.to_string()))?
            }
            Rest::UntilClose => {
                out.extend_from_slice(came);
                came.len()
            }
            Rest::Done => 0,
        };
        let is_done = match &self.rest {
            Rest::Exact(left) => *left == 0,
            Rest::Chunked(chunks) => chunks.is_done(),
            Rest::UntilClose => false,
            Rest::Done => true,
        };
        if is_done {
            self.rest = Rest::Done;
            // More than was announced: what it belongs to nobody knows.
            let is_clean = self.stays_open && taken == came.len();
            if let Some(stream) = self.stream.take().filter(|_| is_clean) {
                self.pool.put(stream);
            }
        }
        Ok(())
    }

    fn fail(&mut self, error: UpstreamError) {
        (self.rest, self.stream, self.failed) = (Rest::Done, None, Some(error));
    }

    fn is_done(&self) -> bool {
        matches!(self.rest, Rest::Done)
    }

    /// Everything has been given, and well.
    pub(super) fn is_all(&self) -> bool {
        self.is_done() && self.failed.is_none()
    }

    /// All that has come of it, at least one byte; `None` at its end.
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        let mut out = std::mem::take(&mut self.ready);
        while out.is_empty() && !self.is_done() {
            if let Err(error) = ready!(self.poll_read(cx, &mut out)) {
                self.fail(error);
            }
        }
        if out.is_empty() {
            return Poll::Ready(self.failed.take().map(Err));
        }
        Poll::Ready(Some(Ok(out.into())))
    }

    /// One read.
    fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Result<(), UpstreamError>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let broken = |what: String| Poll::Ready(Err(UpstreamError::Broken(what)));
            let Some(stream) = &mut self.stream else { return broken("it is closed".into()) };
            let mut into = ReadBuf::new(scratch);
            match ready!(Pin::new(stream).poll_read(cx, &mut into)) {
                Err(error) => broken(error.to_string()),
                Ok(()) if into.filled().is_empty() => match self.rest {
                    Rest::UntilClose => {
                        self.rest = Rest::Done;
                        self.stream = None;
                        Poll::Ready(Ok(()))
                    }
                    _ => broken("it was closed before the end".into()),
                },
                Ok(()) => Poll::Ready(self.take(into.filled(), out)),
            }
        })
    }
}
