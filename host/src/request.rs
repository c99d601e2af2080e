//! The life of a request, a module a phase:
//! recognise, authenticate, read, translate, resolve, admit, route, acquire, forward, relay, settle.

mod acquire;
mod admit;
mod authenticate;
mod body;
mod budget;
mod dialect;
mod foreign;
mod forward;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod history;
mod hygiene;
mod legacy;
mod met;
mod models;
mod read;
mod recognise;
mod relay;
mod resolve;
mod route;
mod settle;
mod story;
mod trace;
mod transcript;
mod wait;

pub(crate) use authenticate::presented as presented_key;
pub use body::Body;
pub use budget::RetryBudget;
pub(crate) use foreign::SUFFIX as UPSTREAM_SUFFIX;
pub use settle::{Recent, RequestRecord};

pub(crate) use story::Step;
pub use story::Told;
pub(crate) use trace::Trace;

use crate::config::Key;
use crate::gateway::Gateway;
use crate::policy::{Message, Reply};
use crate::refusal::Refusal;
use dialect::Dialect;
use foreign::Original;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use read::Inbound;
use recognise::{Inference, Native, Recognised};
use settle::Ledger;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use transcript::Transcript;

/// Who sends a request.
pub(crate) enum Sender {
    /// Somebody at this address, who says who they are.
    At(IpAddr),
    /// Known already: an operator at the console.
    Known(Arc<Key>),
}

/// Serves one request; every outcome is a response.
pub(crate) async fn serve(
    gateway: Arc<Gateway>,
    sender: Sender,
    request: Request<impl Inbound>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut ledger = Ledger::open(&gateway, &parts.headers);
    let table = gateway.policies.table();
    let mut dialect = Dialect::native();
    let mut spoken = None;
    let outcome = async {
        let recognised = recognise::recognise(&table, &parts)?;
        // Whoever only looks whether it is alive has no key.
        let mut is_probe = recognise::is_probe(&parts);
        if let Recognised::Translated(generation, endpoint) = recognised {
            ledger.dialect.clone_from(&generation.name);
            let claim = generation.claims().get(endpoint as usize);
            ledger.route = claim.map(|claim| claim.path.clone()).unwrap_or_default().into();
            (spoken, is_probe) = (Some((generation, endpoint)), false);
        }
        let config = gateway.config.load_full();
        let caller = match sender {
            _ if is_probe => Arc::default(),
            Sender::Known(key) => key,
            Sender::At(from) => authenticate::authenticate(&config, from, &parts.headers)?,
        };
        ledger.key.clone_from(&caller.name);
        let body = match is_probe {
            true => bytes::Bytes::new(),
            false => read::read(body, &parts.headers, config.body_limit, config.body_timeout).await?,
        };
        if config.keep_prompts && !body.is_empty() {
            ledger.transcript = Some(Transcript::of(&body));
        }
        let mut original = None;
        let mut message = native_message(&parts, body.to_vec());
        // Not before the body is in: sessions are few, and a slow client would hold one.
        if let Some((generation, endpoint)) = spoken.take() {
            dialect = Dialect::translated(&gateway, &generation, endpoint, ledger.seed, message.body.len())?;
            message = dialect.request(message)?;
            original = Original::keep(&gateway, &generation.name, &parts, &body);
        }
        answer(&gateway, &caller, message, original, &mut dialect, &mut ledger).await
    }
    .await;
    match outcome {
        Ok(Answer::Reply(reply)) => {
            let native = reply.status;
            let reply = dialect.response(ledger.name(reply));
            ledger.words(&reply.body);
            ledger.answered(native, reply.status);
            respond(reply, &ledger)
        }
        Ok(Answer::Untouched(reply)) => {
            ledger.words(&reply.body);
            ledger.answered(reply.status, reply.status);
            respond(reply, &ledger)
        }
        Ok(Answer::Stream(body)) => stream(body),
        Err(refusal) => {
            // Refused before its session was opened: it is opened to say so, where there is room for one.
            if let Some((generation, endpoint)) = spoken {
                let session = Dialect::translated(&gateway, &generation, endpoint, ledger.seed, 0);
                dialect = session.unwrap_or_else(|_| Dialect::native());
            }
            refuse(&refusal, &mut dialect, ledger)
        }
    }
}

/// What becomes of a request that was not refused.
enum Answer {
    /// A whole native answer.
    Reply(Reply),
    /// A whole answer in the client's own dialect.
    Untouched(Reply),
    /// Everything else now happens in the body.
    Stream(Box<wait::Held>),
}

async fn answer(
    gateway: &Arc<Gateway>,
    caller: &Arc<Key>,
    message: Message,
    original: Option<Box<Original>>,
    dialect: &mut Dialect,
    ledger: &mut Ledger,
) -> Result<Answer, Refusal> {
    let native = recognise::native(&message.method, &message.path).ok_or_else(|| {
        let Message { method, path, .. } = &message;
        Refusal::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {method} {path} here"))
    })?;
    match native {
        Native::Alive => Ok(Answer::Reply(models::alive(gateway))),
        Native::Health => Ok(Answer::Reply(models::health(gateway))),
        Native::Models => Ok(Answer::Reply(models::list(gateway, caller))),
        Native::Model(id) => models::one(gateway, caller, &id).map(Answer::Reply),
        Native::Inference(kind) => {
            if ledger.route.is_empty() {
                ledger.route = kind.path().into();
            }
            ledger.operation = kind.operation();
            let body = match kind {
                Inference::Chat if dialect.is_native() => dialect.modern(message.body),
                _ => message.body.into(),
            };
            let asked = read::parse(kind, body)?;
            let target = resolve::resolve(gateway, caller, &asked)?;
            ledger.target(&target);
            admit::may_have(gateway, caller, &target)?;
            if !kind.is_about_tokens() {
                ledger.admitted(admit::admit(gateway, caller, &asked, &target)?, asked.body.len());
            }
            let mut work = acquire::Work::new(gateway, caller, kind, asked, target, ledger);
            work.original = original;
            wait::answer(work, dialect, ledger).await
        }
    }
}

fn native_message(parts: &http::request::Parts, body: Vec<u8>) -> Message {
    let text = |v: &HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
    // What proves who the caller is stays with the host.
    let is_secret = |name: &str| {
        authenticate::KEY_HEADERS.contains(&name)
            || [header::AUTHORIZATION.as_str(), header::COOKIE.as_str()].contains(&name)
    };
    let headers = parts.headers.iter().filter(|(name, _)| !is_secret(name.as_str()));
    Message {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: headers.map(|(name, value)| (name.as_str().to_owned(), text(value))).collect(),
        body,
    }
}

fn refuse(refusal: &Refusal, dialect: &mut Dialect, mut ledger: Ledger) -> Response<Body> {
    let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    if let Some(seconds) = refusal.retry_seconds() {
        headers.push(("retry-after".into(), seconds.to_string()));
    }
    // SDKs try again on every 429, be there hope or not, and soon, be the wait an hour.
    if let Some(should) = refusal.should_retry() {
        headers.push(("x-should-retry".into(), should.to_string()));
    }
    let reply = Reply { status: refusal.status.as_u16(), headers, body: refusal.body().to_vec() };
    let reply = dialect.response(ledger.name(reply));
    ledger.refused(refusal, reply.status);
    respond(reply, &ledger)
}

/// The reply as it goes out; headers that a policy made up wrongly are left out.
fn respond(reply: Reply, ledger: &Ledger) -> Response<Body> {
    let mut headers = HeaderMap::new();
    for (name, value) in &reply.headers {
        if let (Ok(name), Ok(value)) = (header::HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    headers.remove(header::CONTENT_LENGTH);
    let mut response = Response::new(Body::whole(reply.body.into()));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
    *response.headers_mut() = headers;
    ledger.stamp(response.headers_mut());
    response
}

fn stream(body: Box<wait::Held>) -> Response<Body> {
    let mut response = Response::new(Body::stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Body::Stream(held) = response.body() {
        let mut stamped = HeaderMap::new();
        held.stamp(&mut stamped);
        response.headers_mut().extend(stamped);
    }
    response
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// A new random number: the standard library's hasher keys come from the system's randomness.
pub(crate) fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
