//! From work to an answer: whole, or a stream whose status may have to go out before the node has spoken.

use super::Answer;
use super::acquire::Work;
use super::dialect::Dialect;
use super::forward::Started;
use super::relay::{Relay, Usage, rename};
use super::settle::Ledger;
use crate::policy::Reply;
use crate::refusal::Refusal;
use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

type Running = Pin<Box<dyn Future<Output = Result<Started, Refusal>> + Send>>;

/// A streamed answer, from the moment that its status is out.
pub struct Held {
    state: State,
    dialect: Dialect,
    ledger: Ledger,
    setting: Setting,
    /// The gateway's drain is over.
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// What relaying needs to know of the request.
#[derive(Clone)]
struct Setting {
    client_model: String,
    native: bool,
    hide_usage: bool,
    keepalive_every: Duration,
    stall_timeout: Duration,
}

enum State {
    Waiting { work: Running, ping: Pin<Box<Sleep>> },
    Relaying(Box<Relay>),
    Ended,
}

/// Drives the work; a stream's dialect and ledger move into its body.
pub(super) async fn answer(
    work: Work,
    dialect: &mut Dialect,
    ledger: &mut Ledger,
) -> Result<Answer, Refusal> {
    let config = work.gateway.config.load_full();
    let setting = Setting {
        client_model: work.asked.model.clone(),
        native: dialect.is_native(),
        hide_usage: dialect.is_native() && !work.asked.usage_wanted,
        keepalive_every: config.keepalive_after.max(Duration::from_millis(100)),
        stall_timeout: config.stall_timeout,
    };
    let streamed = work.asked.stream;
    // A child of its own for each request: events of one stream must not wait for another's.
    let mut cut = Box::pin(work.gateway.cut.child_token().cancelled_owned());
    let mut work: Running = Box::pin(work.run());
    if !streamed {
        let outcome = tokio::select! {
            done = work => done,
            () = &mut cut => return Err(shutting_down()),
        };
        ledger.note();
        return whole(outcome?, &setting, ledger);
    }
    let state = tokio::select! {
        outcome = &mut work => {
            ledger.note();
            match outcome? {
                Started::Stream(flow) => State::Relaying(Box::new(setting.relay(*flow))),
                other => return whole(other, &setting, ledger),
            }
        }
        () = &mut cut => return Err(shutting_down()),
        () = tokio::time::sleep(config.keepalive_after) => {
            State::Waiting { work, ping: Box::pin(tokio::time::sleep(Duration::ZERO)) }
        }
    };
    let dialect = std::mem::replace(dialect, Dialect::native());
    Ok(Answer::Stream(Box::new(Held { state, dialect, ledger: ledger.take(), setting, cut })))
}

fn whole(started: Started, setting: &Setting, ledger: &mut Ledger) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Metered {
        usage: Option<Usage>,
    }
    let Started::Whole { status, body, node_model, untouched } = started else {
        let message = "the node streamed an answer that was not asked to be streamed";
        return Err(Refusal::new(http::StatusCode::BAD_GATEWAY, "node_refused", message));
    };
    if let Ok(Metered { usage: Some(usage) }) = serde_json::from_slice(&body) {
        ledger.usage(usage);
    }
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    if let Some(body) = untouched {
        return Ok(Answer::Untouched(Reply { status, headers, body: body.to_vec() }));
    }
    let renamed = match node_model.as_ref() == Some(&setting.client_model) {
        true => None,
        false => rename(&body, &setting.client_model),
    };
    Ok(Answer::Reply(Reply { status, headers, body: renamed.unwrap_or_else(|| body.to_vec()) }))
}

/// To who is still being served when the drain is over.
fn shutting_down() -> Refusal {
    let message = "the gateway is shutting down; try again";
    Refusal::unavailable("shutting_down", message, Duration::from_secs(1))
}

impl Setting {
    fn relay(&self, flow: super::forward::Flow) -> Relay {
        Relay::new(flow, &self.client_model, self.native, self.hide_usage, self.stall_timeout)
    }
}

impl Held {
    pub(super) fn stamp(&self, headers: &mut HeaderMap) {
        self.ledger.stamp(headers);
    }

    /// The next bytes; `None` at the end. Never empty.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            let bytes = match self.poll_state(cx) {
                Poll::Ready(Some(bytes)) => bytes,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    ready!(self.cut.as_mut().poll(cx));
                    self.begin(Err(shutting_down()))
                }
            };
            if !bytes.is_empty() {
                return Poll::Ready(Some(bytes.into()));
            }
        }
    }

    fn poll_state(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        let bytes = match &mut self.state {
            State::Ended => return Poll::Ready(None),
            State::Relaying(relay) => {
                let (bytes, last) = ready!(relay.poll(cx, &mut self.dialect, &mut self.ledger));
                if last {
                    self.state = State::Ended;
                }
                bytes
            }
            State::Waiting { work, ping } => match work.as_mut().poll(cx) {
                Poll::Ready(outcome) => {
                    self.ledger.note();
                    self.begin(outcome)
                }
                Poll::Pending => {
                    ready!(ping.as_mut().poll(cx));
                    ping.as_mut().reset(Instant::now() + self.setting.keepalive_every);
                    self.dialect.keep_alive()
                }
            },
        };
        Poll::Ready(Some(bytes))
    }

    /// The node has spoken, or nobody will: from now on an error is an event.
    fn begin(&mut self, outcome: Result<Started, Refusal>) -> Vec<u8> {
        let refusal = match outcome {
            Ok(Started::Stream(flow)) => {
                self.state = State::Relaying(Box::new(self.setting.relay(*flow)));
                return Vec::new();
            }
            Ok(Started::Whole { .. }) => {
                let message = "the node answered a streamed request with a whole answer";
                Refusal::new(http::StatusCode::BAD_GATEWAY, "node_refused", message)
            }
            Err(refusal) => refusal,
        };
        self.state = State::Ended;
        self.ledger.refused(&refusal, refusal.status.as_u16());
        let mut bytes = self.dialect.events(refusal.event().into());
        bytes.extend(self.dialect.finish(false));
        bytes
    }
}
