//! The dialect that a request's client speaks: native, or a policy's session.

use super::history::{History, Input};
use super::legacy;
use crate::gateway::Gateway;
use crate::policy::{Declined, Fault, Generation, Message, Problem, Reply, Session, limits};
use crate::refusal::Refusal;
use bytes::Bytes;
use http::StatusCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// OpenAI chat completions, unless a policy translates.
pub(super) struct Dialect {
    translated: Option<Box<Translated>>,
    /// A native client that speaks of functions: [`legacy`].
    older: bool,
    broken: bool,
}

struct Translated {
    generation: Arc<Generation>,
    endpoint: u32,
    seed: u64,
    session: Session,
    history: History,
    _permit: OwnedSemaphorePermit,
}

impl Dialect {
    pub(super) fn native() -> Self {
        Self { translated: None, older: false, broken: false }
    }

    /// Errors with a 503 where there is no room for another session, with a 500 where the policy fails.
    pub(super) fn translated(
        gateway: &Gateway,
        generation: &Arc<Generation>,
        endpoint: u32,
        seed: u64,
        bytes: usize,
    ) -> Result<Self, Refusal> {
        let full = |why: &str| {
            let message = format!("too many translated requests at once: {why}");
            Refusal::unavailable("overloaded", message, Duration::from_secs(1))
        };
        let permit = gateway.sessions.clone().try_acquire_many_owned(limits::weight(bytes));
        let permit = permit.map_err(|e| full(&e.to_string()))?;
        let open = || generation.session(endpoint, seed);
        // A trap may be the instance's bad luck: once more.
        let opened = open().or_else(|problem| if is_trap(&problem) { open() } else { Err(problem) });
        let session = opened.map_err(|problem| match &problem {
            Problem::Host(why) => full(why),
            problem => failed(generation, problem),
        })?;
        let history = History::new(gateway.policies.replay_budget());
        let generation = generation.clone();
        let translated = Translated { generation, endpoint, seed, session, history, _permit: permit };
        Ok(Self { translated: Some(Box::new(translated)), older: false, broken: false })
    }

    /// Whether the client gets its events as they come from the node.
    pub(super) fn is_native(&self) -> bool {
        self.translated.is_none()
    }

    /// A native request in today's words; its answer will be in the client's.
    pub(super) fn modern(&mut self, body: Vec<u8>) -> Bytes {
        match legacy::modern(&body) {
            None => body.into(),
            Some(modern) => {
                self.older = legacy::is_asked_for(&body);
                modern
            }
        }
    }

    /// After a fault nothing more may be sent.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// The client's request as a native one; 400 where the policy says that the client is wrong, 413
    /// where it has no room for what the client sent.
    pub(super) fn request(&mut self, message: Message) -> Result<Message, Refusal> {
        let Some(translated) = &mut self.translated else { return Ok(message) };
        let bytes = message.body.len();
        translated.request(message).map_err(|problem| match problem {
            Problem::Declined(Declined::InvalidRequest(message) | Declined::Unsupported(message)) => {
                Refusal::invalid(None, message)
            }
            // What a small request does not need is the client's making, not the policy's.
            Problem::Fault(Fault::Memory(_) | Fault::Deadline(_)) if bytes > limits::INLINE_BODY => {
                let message = format!("{bytes} bytes are too much to be translated");
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
            }
            problem => translated.failed(&problem),
        })
    }

    /// A whole native answer in the client's dialect. Where the policy fails, its error in that dialect,
    /// and where even that fails, the native error.
    pub(super) fn response(&mut self, reply: Reply) -> Reply {
        let Some(translated) = &mut self.translated else {
            return match self.older && reply.status < 400 {
                true => Reply { body: legacy::answer(&reply.body), ..reply },
                false => reply,
            };
        };
        let headers = reply.headers.clone();
        let session = &mut translated.session;
        let problem = match off_reactor(reply.body.len(), || session.response(reply.clone())) {
            Ok(reply) => {
                translated.generation.session_ended();
                return reply;
            }
            Err(problem) => problem,
        };
        let refusal = translated.failed(&problem);
        // A fresh session that has seen the same request may manage what this one did not.
        let Translated { generation, endpoint, seed, history, .. } = &mut **translated;
        if is_trap(&problem)
            && let Ok(mut fresh) = history.repeat(generation, *endpoint, *seed)
            && let Ok(said) = fresh.response(reply.clone())
        {
            return said;
        }
        let native = Reply { status: refusal.status.as_u16(), headers, body: refusal.body().to_vec() };
        // An error of the host's own is what is left to say, also of a refusal that could not be translated.
        let native = if reply.status >= 400 { reply } else { native };
        let fresh = generation.session(*endpoint, *seed);
        let again = fresh.and_then(|mut fresh| fresh.response(native.clone()));
        again.unwrap_or(native)
    }

    /// Whole native events as the client should see them.
    pub(super) fn events(&mut self, native: Bytes) -> Vec<u8> {
        match &self.translated {
            None if self.older => legacy::events(&native),
            None => native.to_vec(),
            Some(_) => self.ask(Input::Events(native)),
        }
    }

    /// The end of the stream. What a native client needs has been sent already.
    pub(super) fn finish(&mut self, clean: bool) -> Vec<u8> {
        let Some(translated) = self.translated.as_mut().filter(|_| !self.broken) else { return Vec::new() };
        let outcome = translated.timed(|session| session.finish(clean));
        if outcome.is_ok() {
            translated.generation.session_ended();
        }
        outcome.or_else(|problem| translated.repeated(problem, |s| s.finish(clean))).unwrap_or_else(
            |problem| {
                self.broken = true;
                translated.error_event(&problem)
            },
        )
    }

    pub(super) fn keep_alive(&mut self) -> Vec<u8> {
        match self.is_native() {
            true => b": waiting\n\n".to_vec(),
            false => self.ask(Input::KeepAlive),
        }
    }

    fn ask(&mut self, input: Input) -> Vec<u8> {
        let Some(translated) = self.translated.as_mut().filter(|_| !self.broken) else { return Vec::new() };
        let call = |session: &mut Session| match &input {
            Input::Events(native) => session.events(native),
            _ => session.keep_alive(),
        };
        let outcome = translated.timed(call);
        match outcome.or_else(|problem| translated.repeated(problem, call)) {
            Ok(said) => {
                translated.history.note(input, &said);
                said
            }
            Err(problem) => {
                self.broken = true;
                translated.error_event(&problem)
            }
        }
    }
}

impl Translated {
    fn request(&mut self, message: Message) -> Result<Message, Problem> {
        let copy = self.history.has_room(message.body.len()).then(|| message.clone());
        let session = &mut self.session;
        let mut outcome = off_reactor(message.body.len(), || session.request(message));
        let Some(copy) = copy else {
            self.history.lose();
            return outcome;
        };
        if let Err(problem) = &outcome
            && is_trap(problem)
        {
            self.generation.session_call(Duration::ZERO, &outcome);
            outcome = self.generation.session(self.endpoint, self.seed).and_then(|fresh| {
                self.session = fresh;
                self.session.request(copy.clone())
            });
        }
        if outcome.is_ok() {
            self.history.note(Input::Request(copy), b"");
        }
        outcome
    }

    fn timed<T>(&mut self, call: impl FnOnce(&mut Session) -> Result<T, Problem>) -> Result<T, Problem> {
        let started = Instant::now();
        let outcome = call(&mut self.session);
        self.generation.session_call(started.elapsed(), &outcome);
        outcome
    }

    /// After a trap: everything once more in a fresh session of the same seed, and where that says what
    /// the client has seen already, on from there.
    fn repeated<T>(
        &mut self,
        problem: Problem,
        call: impl FnOnce(&mut Session) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        if !is_trap(&problem) {
            return Err(problem);
        }
        let mut fresh =
            self.history.repeat(&self.generation, self.endpoint, self.seed).map_err(|_| problem)?;
        let said = call(&mut fresh)?;
        tracing::info!(policy = self.generation.name, "a fresh session took up a stream after a trap");
        self.session = fresh;
        Ok(said)
    }

    /// A session of the same policy knows how its dialect says that a stream is broken. Where it does
    /// not even manage that, an event that the dialect does not have is better than an end without a word.
    fn error_event(&self, problem: &Problem) -> Vec<u8> {
        let refusal = failed(&self.generation, problem);
        let fresh = self.generation.session(self.endpoint, self.seed);
        let native = refusal.event();
        fresh.and_then(|mut fresh| fresh.events(&native)).unwrap_or(native)
    }

    fn failed(&self, problem: &Problem) -> Refusal {
        self.generation.session_call::<()>(Duration::ZERO, &Err(problem.clone()));
        failed(&self.generation, problem)
    }
}

fn is_trap(problem: &Problem) -> bool {
    matches!(problem, Problem::Fault(Fault::Trap(_) | Fault::Memory(_)))
}

fn failed(generation: &Generation, problem: &Problem) -> Refusal {
    tracing::warn!(policy = generation.name, %problem, "translation failed");
    refusal(generation)
}

/// The policy's own words are for the log, not for clients.
fn refusal(generation: &Generation) -> Refusal {
    let message = format!("the {} translation of this request failed", generation.name);
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "translation_failed", message)
}

/// A large body takes long enough to translate that other requests on this thread must move away.
pub(super) fn off_reactor<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > limits::INLINE_BODY { tokio::task::block_in_place(work) } else { work() }
}
