//! The request to a node, up to the point where its status is settled.

use super::acquire::Work;
use super::foreign::{Foreign, Outgoing, TRANSLATION_FAILED, Unread};
use super::recognise::Inference;
use crate::config::Defaults;
use crate::fleet::{Assumption, Node, NodeView, Seat};
use crate::refusal::{LONGEST_RETRY, Refusal};
use crate::sse::Framer;
use crate::upstream::{Body, UpstreamError};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::Value;
use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of a whole answer; a larger one is refused.
const ANSWER_LIMIT: usize = 64 << 20;
/// Bytes of comments before the first event that are kept for the client.
const COMMENTS: usize = 64 << 10;
/// An upstream is well and does not have the model.
pub(super) const LACKS_MODEL: &str = "upstream_lacks_model";
/// When a client may try again whose node failed.
const RETRY: Duration = Duration::from_secs(2);

/// An answer that has begun well.
pub(super) enum Started {
    Whole {
        status: u16,
        body: Bytes,
        node_model: Option<String>,
        /// What the client gets instead: the upstream speaks its dialect.
        untouched: Option<Bytes>,
    },
    Stream(Box<Flow>),
}

/// A stream whose first event has come.
pub(super) struct Flow {
    pub(super) first: Piece,
    pub(super) framer: Framer,
    pub(super) body: Body,
    pub(super) node: String,
    /// The name that it answers under, where that is known: an upstream's may be any.
    pub(super) node_model: Option<String>,
    pub(super) seat: Seat,
    /// Until the answer's end the node is taken to hold the conversation.
    pub(super) assumed: Option<Assumption>,
    pub(super) foreign: Option<Box<Foreign>>,
}

/// Whole events as they came, and as native ones.
pub(super) struct Piece {
    pub(super) came: Bytes,
    pub(super) native: Bytes,
}

/// An answer that has not.
pub(super) enum Failed {
    /// Another node may do better.
    Elsewhere(Refusal),
    /// No word of the node's: it was not there, or it took the request (`asked`) and broke off. Another may do better.
    Broke { refusal: Refusal, asked: bool },
    /// The request itself is at fault.
    Final(Refusal),
}

/// What a whole answer may take beyond the deadline: a node begins it when the last word is written, and
/// a long one on a slow machine takes this long. A node that froze is found out by the polls.
const WHOLE_ANSWER: Duration = Duration::from_secs(3600);

/// `deadline`: when the node must have begun a streamed answer.
pub(super) async fn forward(
    work: &Work,
    node: &Arc<Node>,
    model: &str,
    seat: Seat,
    deadline: Instant,
) -> Result<Started, Failed> {
    let mut foreign = Foreign::open(work, node).map_err(Failed::Elsewhere)?;
    let Outgoing { path, headers, body } = outgoing(work, node, model, foreign.as_deref_mut())?;
    let deadline = if work.asked.stream { deadline } else { deadline + WHOLE_ANSWER };
    let sending = work.gateway.upstream.send(&node.peer, Method::POST, &path, &headers, body);
    let sent = tokio::time::timeout_at(deadline, while_up(work, node, sending)).await;
    let response = sent.map_err(|_| Failed::Final(too_late(node)))?;
    let response = response.map_err(|error| elsewhere(node, &error))?;
    let (parts, body) = response.into_parts();
    let kind = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if parts.status.is_success() && kind.starts_with(b"text/event-stream") {
        let begins = first_event(work, node, model, body, seat, foreign);
        // Signs of life are no answer.
        return tokio::time::timeout_at(deadline, begins)
            .await
            .unwrap_or_else(|_| Err(Failed::Final(too_late(node))));
    }
    let whole = tokio::time::timeout_at(deadline, while_up(work, node, body.whole(ANSWER_LIMIT))).await;
    let body = whole.map_err(|_| Failed::Final(too_late(node)))?.map_err(|error| elsewhere(node, &error))?;
    if parts.status.is_success() {
        // A proxy's page, or nothing at all.
        let text = body.trim_ascii();
        if !(text.starts_with(b"{") && text.ends_with(b"}")) {
            return Err(malformed(node, "it is no JSON object"));
        }
    }
    // It says so in words of its own, and whether it has the model is for another poll to see.
    if parts.status == StatusCode::NOT_FOUND && node.offer().is_some() {
        let said = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        let message = format!("upstream {} does not serve {model}: {said}", node.name);
        return Err(Failed::Elsewhere(Refusal::new(StatusCode::BAD_GATEWAY, LACKS_MODEL, message)));
    }
    let (mut status, mut native, mut untouched) = (parts.status, body, None);
    if let Some(foreign) = &mut foreign {
        untouched = foreign.untouched.then(|| native.clone());
        (status, native) = foreign.response(status, &native).map_err(|why| unread(node, why))?;
    }
    match status.is_success() {
        true => Ok(Started::Whole {
            status: status.as_u16(),
            body: native,
            node_model: answers_as(node, model),
            untouched,
        }),
        false => Err(refused(status, &parts.headers, native)),
    }
}

/// The request as the node wants it.
fn outgoing(
    work: &Work,
    node: &Arc<Node>,
    model: &str,
    foreign: Option<&mut Foreign>,
) -> Result<Outgoing, Failed> {
    let plain = Defaults::default();
    let generates = matches!(work.kind, Inference::Chat | Inference::Completion);
    let native = work.asked.for_node(model, if generates { &work.target.model.defaults } else { &plain });
    let mut outgoing = match foreign {
        Some(foreign) => foreign.request(work, node, native, model).map_err(Failed::Elsewhere)?,
        None => {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Outgoing { path: work.kind.path().into(), headers, body: native }
        }
    };
    // An upstream's endpoint ends where SDKs' base URLs do.
    if node.offer().is_some()
        && node.peer.has_base()
        && let Some(rest) = outgoing.path.strip_prefix("/v1")
    {
        outgoing.path = Cow::Owned(rest.to_owned());
    }
    let headers = &mut outgoing.headers;
    if let Ok(id) = HeaderValue::try_from(&work.request_id) {
        headers.insert("x-request-id", id);
    }
    if let Some(trace) = &work.trace {
        trace.tell(headers, work.span(), work.gateway.telemetry.is_some());
    }
    // Nodes share fairly among tenants, and let none see what another's cache holds. To others' servers they are
    // nobody's business.
    if node.offer().is_none()
        && let Ok(tenant) = HeaderValue::try_from(&work.tenant)
    {
        headers.insert("x-cortex-tenant", tenant);
    }
    Ok(outgoing)
}

fn answers_as(node: &Node, model: &str) -> Option<String> {
    node.offer().is_none().then(|| model.to_owned())
}

/// What comes of `exchange`, unless the polls find the node down first: a host that froze or lost its
/// power closes no connection. A daemon that only takes no new ones ends what it has begun.
async fn while_up<T>(
    work: &Work,
    node: &Arc<Node>,
    exchange: impl Future<Output = Result<T, UpstreamError>>,
) -> Result<T, UpstreamError> {
    let (fleet, begun) = (&work.gateway.fleet, Instant::now());
    let is_at_work = |view: &NodeView| (view.reachable() || view.is_ending()) && !view.came_up_since(begun);
    let mut changes = fleet.changes();
    let down = async {
        // A node that has left the configuration is not polled, and what it was asked may end.
        while fleet.now().view(node).is_none_or(|view| is_at_work(view)) {
            // Never an error: the sender is the fleet.
            let _changed = changes.changed().await;
        }
    };
    tokio::select! {
        outcome = exchange => outcome,
        () = down => Err(UpstreamError::Broken("the node went down".into())),
    }
}

/// Holds the status back until the node has said something that is not a refusal.
async fn first_event(
    work: &Work,
    node: &Arc<Node>,
    model: &str,
    mut body: Body,
    seat: Seat,
    mut foreign: Option<Box<Foreign>>,
) -> Result<Started, Failed> {
    let mut framer = Framer::default();
    // Comments that came before, and events that mean nothing natively; they pass too.
    let mut before = Vec::new();
    let stall = work.gateway.config.load().stall_timeout;
    loop {
        let reading = async {
            let ended = || UpstreamError::Broken("the stream ended before its first event".into());
            std::future::poll_fn(|cx| body.poll_data(cx)).await.ok_or_else(ended)?
        };
        let data = tokio::time::timeout(stall, while_up(work, node, reading)).await;
        let data = data.unwrap_or(Err(UpstreamError::Timeout(stall)));
        let data = data.map_err(|error| elsewhere(node, &error))?;
        let whole =
            framer.push(data).map_err(|e| elsewhere(node, &UpstreamError::Malformed(e.to_string())))?;
        let Some(came) = whole else { continue };
        let native = match &mut foreign {
            None => came.clone(),
            Some(foreign) => foreign.events(&came).map_err(|why| unread(node, why))?,
        };
        let Some(event) = crate::sse::events(&native).find_map(|event| event.data()) else {
            if before.len() + came.len() <= COMMENTS {
                before.extend_from_slice(&came);
            }
            continue;
        };
        if let Some(refusal) = error_event(&event) {
            return Err(refusal);
        }
        let all =
            |last: &Bytes| if before.is_empty() { last.clone() } else { [&before[..], last].concat().into() };
        let first = match foreign {
            None => Piece { came: Bytes::new(), native: all(&came) },
            Some(_) => Piece { came: all(&came), native },
        };
        let (node, node_model) = (node.name.clone(), answers_as(node, model));
        return Ok(Started::Stream(Box::new(Flow {
            first,
            framer,
            body,
            node,
            node_model,
            seat,
            assumed: None,
            foreign,
        })));
    }
}

/// A stream that begins with an error is a refusal, with the status that the error names.
fn error_event(data: &[u8]) -> Option<Failed> {
    let value: Value = serde_json::from_slice(data).ok()?;
    let error = value.get("error").filter(|e| e.is_object())?;
    let status = error["status"].as_u64().or(error["code"].as_u64()).unwrap_or(500) as u16;
    let status = StatusCode::from_u16(status).ok().filter(|s| s.as_u16() >= 400);
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Some(refused(status, &HeaderMap::new(), Bytes::copy_from_slice(data)))
}

/// A node's refusal: its own words for the client, unless another node is tried.
fn refused(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Failed {
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = said["error"]["message"].as_str().unwrap_or("the node refused").to_owned();
    let code = said["error"]["code"].as_str().unwrap_or("node_refused");
    let retry = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
    let retryable = status.is_server_error() || matches!(status.as_u16(), 408 | 409 | 429);
    let refusal = Refusal {
        retry_after: retry
            .map(|seconds: u64| Duration::from_secs(seconds.min(LONGEST_RETRY)))
            .or(retryable.then_some(RETRY)),
        // What is not an OpenAI error is wrapped in one.
        verbatim: said["error"].is_object().then_some(body),
        ..Refusal::new(status, code, message)
    };
    // A missing model is the gateway's to mend, and a node's own 401 is the operator's, not the client's.
    match (status, code) {
        (StatusCode::NOT_FOUND, "model_not_found") => Failed::Elsewhere(refusal),
        // Its daemon ends, and did not begin with this.
        (StatusCode::SERVICE_UNAVAILABLE, "shutting_down") => Failed::Broke { refusal, asked: false },
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Failed::Elsewhere(Refusal::unavailable(
            "node_refused",
            "the node does not accept this gateway's token",
            RETRY,
        )),
        _ if retryable => Failed::Elsewhere(refusal),
        _ => Failed::Final(refusal),
    }
}

fn too_late(node: &Node) -> Refusal {
    node.poke();
    let message = format!("node {} did not begin its answer in time", node.name);
    Refusal::unavailable("node_timeout", message, RETRY)
}

fn unread(node: &Node, unread: Unread) -> Failed {
    match unread.why() {
        (why, true) => malformed(node, &why),
        (why, false) => Failed::Elsewhere(Refusal::new(StatusCode::BAD_GATEWAY, TRANSLATION_FAILED, why)),
    }
}

fn malformed(node: &Node, why: &str) -> Failed {
    elsewhere(node, &UpstreamError::Malformed(why.to_owned()))
}

fn elsewhere(node: &Node, error: &UpstreamError) -> Failed {
    node.poke();
    let message = format!("node {}: {error}", node.name);
    let refusal = Refusal::unavailable("node_unavailable", message, RETRY);
    Failed::Broke { refusal, asked: !matches!(error, UpstreamError::Connect { .. }) }
}
