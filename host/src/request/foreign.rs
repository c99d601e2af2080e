//! An upstream that speaks another dialect: a policy's session makes it look native. A client that speaks the same
//! dialect is passed through as it is, and the session only reads along, for the account.

use super::acquire::Work;
use super::dialect::off_reactor;
use crate::fleet::Node;
use crate::gateway::Gateway;
use crate::policy::{Declined, Fault, Generation, Kind, Message, Problem, Reply, Session, limits};
use crate::refusal::Refusal;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// What a policy of an upstream's dialect is called, behind the dialect's name.
pub(crate) const SUFFIX: &str = "-upstream";

/// One request to such an upstream.
pub(super) struct Foreign {
    generation: Arc<Generation>,
    session: Session,
    /// The client gets what the upstream says as it is.
    pub(super) untouched: bool,
    _permit: OwnedSemaphorePermit,
}

/// The client's own request in the dialect that an upstream may speak, too.
pub(super) struct Original {
    dialect: String,
    /// With its query.
    path: String,
    headers: HeaderMap,
    body: Bytes,
    model_at: Range<usize>,
}

/// What goes to the upstream.
pub(super) struct Outgoing {
    pub(super) path: Cow<'static, str>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Of one client and one connection, or proof of who the client is to this gateway: none of the upstream's business.
const OWN: [&str; 25] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "accept-encoding",
    "content-encoding",
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "cookie",
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "referer",
    "baggage",
    "traceparent",
    "tracestate",
];
/// The same, whatever follows.
const OWN_FAMILIES: [&str; 4] = ["x-forwarded-", "x-cortex-", "proxy-", "cf-"];

/// Why an answer could not be made native.
pub(super) enum Unread {
    /// It is none of the dialect's.
    Upstream(String),
    /// The policy failed over it.
    Policy(String),
}

impl Unread {
    /// What the client is told, and whether the upstream is to blame.
    pub(super) fn why(self) -> (String, bool) {
        match self {
            Self::Upstream(why) => (why, true),
            Self::Policy(why) => (why, false),
        }
    }
}

/// A policy failed over a request or its answer: the node is not to blame.
pub(super) const TRANSLATION_FAILED: &str = "translation_failed";

impl Original {
    /// Kept where an upstream speaks the client's dialect; `None` where none does, or nothing in it is a model.
    pub(super) fn keep(
        gateway: &Gateway,
        dialect: &str,
        parts: &http::request::Parts,
        body: &Bytes,
    ) -> Option<Box<Self>> {
        #[derive(Deserialize)]
        struct Named<'a> {
            #[serde(borrow)]
            model: &'a RawValue,
        }
        let config = gateway.config.load();
        if !config.nodes.iter().any(|node| node.dialect() == Some(dialect)) {
            return None;
        }
        let model = serde_json::from_slice::<Named<'_>>(body).ok()?.model.get();
        let start = model.as_ptr() as usize - body.as_ptr() as usize;
        let mut headers = parts.headers.clone();
        // What is named there belongs to the connection, too.
        let named = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let named: Vec<String> = named.flat_map(|v| v.split(',').map(|n| n.trim().to_owned())).collect();
        let family = |name: &HeaderName| OWN_FAMILIES.iter().any(|prefix| name.as_str().starts_with(prefix));
        let own: Vec<HeaderName> = headers.keys().filter(|name| family(name)).cloned().collect();
        own.iter().for_each(|name| drop(headers.remove(name)));
        let names = OWN.into_iter().chain(named.iter().map(String::as_str));
        names.for_each(|name| drop(headers.remove(name)));
        Some(Box::new(Self {
            dialect: dialect.to_owned(),
            path: parts.uri.path_and_query().map(|p| p.as_str().to_owned())?,
            headers,
            body: body.clone(),
            model_at: start..start + model.len(),
        }))
    }

    /// Every byte the client's but the model's name.
    fn outgoing(&self, model: &str) -> Outgoing {
        let Range { start, end } = self.model_at;
        let name = serde_json::Value::from(model).to_string();
        let body = [&self.body[..start], name.as_bytes(), &self.body[end..]].concat();
        Outgoing { path: self.path.clone().into(), headers: self.headers.clone(), body: body.into() }
    }
}

impl Foreign {
    /// `None` where the node speaks the native dialect.
    pub(super) fn open(work: &Work, node: &Node) -> Result<Option<Box<Self>>, Refusal> {
        let Some(dialect) = node.dialect() else { return Ok(None) };
        let name = [dialect, SUFFIX].concat();
        let generation = work.gateway.policies.table().get(&name, Kind::Upstream);
        let generation = generation.ok_or_else(|| {
            let message = format!("{} speaks {dialect}, and there is no policy {name}", node.name);
            Refusal::unavailable("no_policy", message, Duration::from_secs(10))
        })?;
        let full = |why: String| {
            let message = format!("too many translated requests at once: {why}");
            Refusal::unavailable("overloaded", message, Duration::from_secs(1))
        };
        let weight = limits::weight(work.asked.body.len());
        let permit = work.gateway.sessions.clone().try_acquire_many_owned(weight);
        let permit = permit.map_err(|e| full(e.to_string()))?;
        let session = generation.session(0, work.seed).map_err(|problem| match problem {
            Problem::Host(why) => full(why),
            problem => failed(&generation, &problem),
        })?;
        let untouched = work.original.as_ref().is_some_and(|original| original.dialect == dialect);
        Ok(Some(Box::new(Self { generation, session, untouched, _permit: permit })))
    }

    /// The request in the upstream's dialect, or the client's own; a 400 where the dialect has no words for it.
    pub(super) fn request(
        &mut self,
        work: &Work,
        node: &Node,
        native: Bytes,
        model: &str,
    ) -> Result<Outgoing, Refusal> {
        let path = work.kind.path();
        let message =
            Message { method: "POST".into(), path: path.into(), body: native.to_vec(), ..Message::default() };
        let (bytes, session) = (message.body.len(), &mut self.session);
        let made = off_reactor(bytes, || session.request(message));
        let translated = match made {
            Ok(made) => Some(Self::translated(made)),
            // The client's own words are what goes there.
            Err(Problem::Declined(_)) if self.untouched => None,
            Err(Problem::Declined(Declined::InvalidRequest(why) | Declined::Unsupported(why))) => {
                return Err(Refusal::invalid(None, why));
            }
            // What a small request does not need is the client's making, not the policy's.
            Err(Problem::Fault(Fault::Memory(_) | Fault::Deadline(_))) if bytes > limits::INLINE_BODY => {
                let message = format!("{bytes} bytes are too much to be translated");
                return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message));
            }
            Err(problem) => return Err(failed(&self.generation, &problem)),
        };
        let original = work.original.as_ref().filter(|_| self.untouched).map(|o| o.outgoing(model));
        let mut outgoing = match (original, translated) {
            (Some(mut original), translated) => {
                // What the dialect wants and the client left out.
                for (name, value) in translated.iter().flat_map(|made| &made.headers) {
                    original.headers.entry(name).or_insert_with(|| value.clone());
                }
                original
            }
            (None, Some(translated)) => translated,
            (None, None) => {
                return Err(Refusal::invalid(None, "it cannot be said in the upstream's dialect"));
            }
        };
        // What the operator says of this upstream comes first.
        let doubled: Vec<HeaderName> =
            outgoing.headers.keys().filter(|name| node.peer.sends(name)).cloned().collect();
        doubled.iter().for_each(|name| drop(outgoing.headers.remove(name)));
        Ok(outgoing)
    }

    fn translated(made: Message) -> Outgoing {
        let mut headers = HeaderMap::new();
        for (name, value) in &made.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
        OWN.into_iter().for_each(|name| drop(headers.remove(name)));
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        let path = if made.query.is_empty() { made.path } else { [made.path, made.query].join("?") };
        Outgoing { path: path.into(), headers, body: made.body.into() }
    }

    /// A whole answer as a native one: its status and body.
    pub(super) fn response(
        &mut self,
        status: StatusCode,
        body: &Bytes,
    ) -> Result<(StatusCode, Bytes), Unread> {
        let headers = vec![("content-type".into(), "application/json".into())];
        let reply = Reply { status: status.as_u16(), headers, body: body.to_vec() };
        let reply = self.timed(|session| off_reactor(reply.body.len(), || session.response(reply)))?;
        self.generation.session_ended();
        Ok((StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY), reply.body.into()))
    }

    /// Whole events as native ones; there may be none.
    pub(super) fn events(&mut self, events: &Bytes) -> Result<Bytes, Unread> {
        self.timed(|session| session.events(events)).map(Into::into)
    }

    /// What is still to be said at the end.
    pub(super) fn finish(&mut self, clean: bool) -> Result<Bytes, Unread> {
        let said = self.timed(|session| session.finish(clean))?;
        self.generation.session_ended();
        Ok(said.into())
    }

    fn timed<T>(&mut self, call: impl FnOnce(&mut Session) -> Result<T, Problem>) -> Result<T, Unread> {
        let started = Instant::now();
        let outcome = call(&mut self.session);
        self.generation.session_call(started.elapsed(), &outcome);
        outcome.map_err(|problem| {
            tracing::warn!(policy = self.generation.name, %problem, "an upstream's answer could not be read");
            let why = format!("the {} translation of its answer failed", self.generation.name);
            match problem {
                Problem::Declined(_) => Unread::Upstream(why),
                Problem::Fault(_) | Problem::Host(_) => Unread::Policy(why),
            }
        })
    }
}

fn failed(generation: &Generation, problem: &Problem) -> Refusal {
    generation.session_call::<()>(Duration::ZERO, &Err(problem.clone()));
    tracing::warn!(policy = generation.name, %problem, "translation for an upstream failed");
    let message = format!("the {} translation of this request failed", generation.name);
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, TRANSLATION_FAILED, message)
}
