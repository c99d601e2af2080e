//! One request with its answer, in an instance of its own, so that a fault costs that request alone.

use super::bindings::translation::TranslationPolicy as TranslatorBindings;
use super::bindings::types::{self, PolicyError};
use super::bindings::upstream::UpstreamPolicy as UpstreamBindings;
use super::instance::{Fault, Instance, Problem};
use super::state::HostState;
use super::{Declined, limits};
use std::time::Duration;
use wasmtime::component::ResourceAny;
use wasmtime::{Result as Wasm, Store};

/// A request as translation sees it.
#[derive(Debug, Clone, Default)]
pub struct Message {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A whole answer as translation sees it.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A client's dialect to the native one and back, or the native one to an upstream's and back.
pub(super) enum Guest {
    Translator(TranslatorBindings),
    Upstream(UpstreamBindings),
}

/// A translation under way. After a [`Fault`] it must be dropped.
pub struct Session {
    instance: Instance<Guest>,
    handle: ResourceAny,
    /// Bytes given in and out so far, over all calls.
    input: usize,
    output: usize,
}

type Said<T> = Wasm<Result<T, PolicyError>>;

impl Guest {
    pub(super) fn configure(&self, s: &mut Store<HostState>, settings: &str) -> Said<()> {
        match self {
            Self::Translator(b) => b.cortex_policy_lifecycle().call_configure(s, settings),
            Self::Upstream(b) => b.cortex_policy_lifecycle().call_configure(s, settings),
        }
    }

    fn open(&self, s: &mut Store<HostState>, endpoint: u32, seed: u64) -> Wasm<ResourceAny> {
        match self {
            Self::Translator(b) => b.cortex_policy_translator().session().call_constructor(s, endpoint, seed),
            Self::Upstream(b) => b.cortex_policy_upstream_dialect().session().call_constructor(s, seed),
        }
    }

    fn request(
        &self,
        s: &mut Store<HostState>,
        on: ResourceAny,
        message: &types::Message,
    ) -> Said<types::Message> {
        match self {
            Self::Translator(b) => b.cortex_policy_translator().session().call_request(s, on, message),
            Self::Upstream(b) => b.cortex_policy_upstream_dialect().session().call_request(s, on, message),
        }
    }

    fn response(
        &self,
        s: &mut Store<HostState>,
        on: ResourceAny,
        reply: &types::Reply,
    ) -> Said<types::Reply> {
        match self {
            Self::Translator(b) => b.cortex_policy_translator().session().call_response(s, on, reply),
            Self::Upstream(b) => b.cortex_policy_upstream_dialect().session().call_response(s, on, reply),
        }
    }

    fn events(&self, s: &mut Store<HostState>, on: ResourceAny, sse: &[u8]) -> Said<Vec<u8>> {
        match self {
            Self::Translator(b) => b.cortex_policy_translator().session().call_events(s, on, sse),
            Self::Upstream(b) => b.cortex_policy_upstream_dialect().session().call_events(s, on, sse),
        }
    }

    fn finish(&self, s: &mut Store<HostState>, on: ResourceAny, clean: bool) -> Said<Vec<u8>> {
        match self {
            Self::Translator(b) => b.cortex_policy_translator().session().call_finish(s, on, clean),
            Self::Upstream(b) => b.cortex_policy_upstream_dialect().session().call_finish(s, on, clean),
        }
    }
}

impl Session {
    /// `endpoint` means nothing to an upstream's dialect.
    pub(super) fn new(mut instance: Instance<Guest>, endpoint: u32, seed: u64) -> Result<Self, Problem> {
        let handle = instance.call(limits::MESSAGE, |b, s| b.open(s, endpoint, seed))?;
        Ok(Self { instance, handle, input: 0, output: 0 })
    }

    /// The client's request as a native one, or a native one as the upstream wants it.
    pub fn request(&mut self, message: Message) -> Result<Message, Problem> {
        let limit = message_limit(message.body.len());
        let given = message.body.len();
        let Message { method, path, query, headers, body } = message;
        let message = types::Message { method, path, query, headers, body };
        let on = self.handle;
        let made = self.instance.call(limit, |b, s| b.request(s, on, &message))?.map_err(Declined::from)?;
        self.account(given, made.body.len())?;
        let types::Message { method, path, query, headers, body } = made;
        Ok(Message { method, path, query, headers, body })
    }

    /// A whole answer in the other dialect.
    pub fn response(&mut self, reply: Reply) -> Result<Reply, Problem> {
        let limit = message_limit(reply.body.len());
        let given = reply.body.len();
        let Reply { status, headers, body } = reply;
        let reply = types::Reply { status, headers, body };
        let on = self.handle;
        let said = self.instance.call(limit, |b, s| b.response(s, on, &reply))?.map_err(Declined::from)?;
        self.account(given, said.body.len())?;
        if !(200..=599).contains(&said.status) {
            return Err(Fault::Invalid(format!("status {}", said.status)).into());
        }
        Ok(Reply { status: said.status, headers: said.headers, body: said.body })
    }

    /// Whole events in, bytes to flush out.
    pub fn events(&mut self, sse: &[u8]) -> Result<Vec<u8>, Problem> {
        let on = self.handle;
        let limit = self.events_limit(sse.len());
        let out = self.instance.call(limit, |b, s| b.events(s, on, sse))?.map_err(Declined::from)?;
        self.account(sse.len(), out.len())?;
        Ok(out)
    }

    /// The end; `clean` is false where the stream broke off.
    pub fn finish(&mut self, clean: bool) -> Result<Vec<u8>, Problem> {
        let on = self.handle;
        let limit = self.events_limit(0);
        let out = self.instance.call(limit, |b, s| b.finish(s, on, clean))?.map_err(Declined::from)?;
        self.account(0, out.len())?;
        Ok(out)
    }

    /// What keeps a waiting client patient; nothing for an upstream.
    pub fn keep_alive(&mut self) -> Result<Vec<u8>, Problem> {
        let on = self.handle;
        let out = self.instance.call(limits::EVENTS, |b, s| match b {
            Guest::Translator(b) => b.cortex_policy_translator().session().call_keep_alive(s, on),
            Guest::Upstream(_) => Ok(Vec::new()),
        })?;
        // A waiting client may be kept patient for ever: this is not held against the session's output,
        // but each time against what one of them may be.
        if out.len() > limits::KEEP_ALIVE {
            return Err(Fault::Invalid(format!("a keep-alive of {} bytes", out.len())).into());
        }
        Ok(out)
    }

    fn events_limit(&self, bytes: usize) -> Duration {
        let time = |bytes: usize| limits::PER_MIB.mul_f64(bytes as f64 / f64::from(1 << 20));
        limits::EVENTS + time(bytes) + time(self.input).min(limits::FOR_BEFORE)
    }

    fn account(&mut self, input: usize, output: usize) -> Result<(), Fault> {
        self.input += input;
        self.output += output;
        let bound = limits::OUTPUT_FACTOR * self.input + limits::OUTPUT_SLACK;
        if self.output > bound {
            let (input, output) = (self.input, self.output);
            return Err(Fault::Invalid(format!("{output} bytes for {input}, more than {bound}")));
        }
        Ok(())
    }
}

fn message_limit(bytes: usize) -> Duration {
    limits::MESSAGE + limits::PER_MIB * (bytes >> 20) as u32
}
