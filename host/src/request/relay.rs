//! A node's stream on its way to the client: whole events, metered, tidied or translated, flushed at once.

use super::dialect::Dialect;
use super::foreign::Foreign;
use super::forward::{Flow, Piece};
use super::hygiene::Hygiene;
use super::settle::Ledger;
use crate::fleet::{Assumption, Seat};
use crate::refusal::Refusal;
use crate::sse::{self, Framer};
use crate::upstream::{Body, UpstreamError};
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

pub(super) struct Relay {
    /// The event that settled the status, until it is sent.
    first: Option<Piece>,
    framer: Framer,
    body: Body,
    gather: Gather,
    stall: Pin<Box<Sleep>>,
    stall_timeout: Duration,
    tidy: Tidy,
    node: String,
    /// The upstream speaks another dialect.
    foreign: Option<Box<Foreign>>,
    _seat: Seat,
    _assumed: Option<Assumption>,
}

/// Lets everybody else have a turn between an event's coming and its going: what has come by then goes with it, in
/// one write. With nobody else there the turn is over at once, and where many streams are busy they are
/// written as often as there is time for, not once for each event.
#[derive(Default)]
struct Gather {
    came: Option<Bytes>,
    turn: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// The end was met while more was looked for.
    over: Option<Option<UpstreamError>>,
}

impl Gather {
    fn poll(&mut self, cx: &mut Context<'_>, body: &mut Body) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        if let Some(end) = self.over.take() {
            return Poll::Ready(end.map(Err));
        }
        if self.came.is_none() {
            match ready!(body.poll_data(cx)) {
                Some(Ok(data)) => self.came = Some(data),
                end => return Poll::Ready(end),
            }
        }
        ready!(self.turn.get_or_insert_with(|| Box::pin(tokio::task::yield_now())).as_mut().poll(cx));
        self.turn = None;
        let came = self.came.take().unwrap_or_default();
        let more = match body.poll_data(cx) {
            Poll::Ready(Some(Ok(more))) => more,
            Poll::Ready(Some(Err(error))) => {
                self.over = Some(Some(error));
                Bytes::new()
            }
            Poll::Ready(None) => {
                self.over = Some(None);
                Bytes::new()
            }
            Poll::Pending => Bytes::new(),
        };
        let all = if more.is_empty() { came } else { [&came[..], &more[..]].concat().into() };
        Poll::Ready(Some(Ok(all)))
    }
}

/// What is done to a native stream, and what was seen in it.
struct Tidy {
    /// The node's name for the model, and the client's.
    rename: Option<String>,
    hide_usage: bool,
    /// For clients that get the chunks themselves.
    hygiene: Option<Box<Hygiene>>,
    /// A finish reason or the closing mark has come: the answer is whole.
    complete: bool,
}

/// The part of a chunk that is acted on.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(default, borrow)]
    model: Option<&'a RawValue>,
    #[serde(default, borrow)]
    choices: Vec<Choice<'a>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default, borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: Option<u64>,
    #[serde(default, borrow)]
    delta: Option<Delta<'a>>,
    #[serde(default, borrow)]
    text: Option<&'a RawValue>,
    #[serde(default, borrow)]
    finish_reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(default, borrow)]
    role: Option<&'a RawValue>,
    #[serde(default, borrow)]
    content: Option<&'a RawValue>,
    #[serde(default, borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(default, borrow)]
    reasoning: Option<&'a RawValue>,
    #[serde(default, borrow)]
    tool_calls: Option<&'a RawValue>,
}

/// Tokens as a node counts them.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Usage {
    #[serde(default)]
    pub(super) prompt_tokens: u64,
    #[serde(default)]
    pub(super) completion_tokens: u64,
    #[serde(default)]
    pub(super) prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct PromptDetails {
    #[serde(default)]
    pub(super) cached_tokens: u64,
}

impl Relay {
    /// `native`: the client gets the chunks themselves.
    pub(super) fn new(
        flow: Flow,
        client_model: &str,
        native: bool,
        hide_usage: bool,
        stall_timeout: Duration,
    ) -> Self {
        let Flow { first, framer, body, node, node_model, seat, assumed, foreign } = flow;
        let rename = (node_model.as_deref() != Some(client_model)).then(|| client_model.to_owned());
        Self {
            first: Some(first),
            framer,
            body,
            gather: Gather::default(),
            stall: Box::pin(tokio::time::sleep(stall_timeout)),
            stall_timeout,
            tidy: Tidy { rename, hide_usage, hygiene: native.then(Box::default), complete: false },
            node,
            foreign,
            _seat: seat,
            _assumed: assumed,
        }
    }

    /// The next bytes for the client, with whether they are the last.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        dialect: &mut Dialect,
        ledger: &mut Ledger,
    ) -> Poll<(Vec<u8>, bool)> {
        loop {
            let piece = match self.first.take() {
                Some(first) => first,
                None => match ready!(self.poll_events(cx))
                    .and_then(|whole| whole.map(|w| self.read(w)).transpose())
                {
                    Ok(Some(piece)) => piece,
                    Ok(None) => return Poll::Ready((self.end(None, dialect, ledger), true)),
                    Err(cause) => return Poll::Ready((self.end(Some(cause), dialect, ledger), true)),
                },
            };
            let out = self.say(piece, dialect, ledger);
            if dialect.is_broken() {
                ledger.broke("the translation policy failed");
                return Poll::Ready((out, true));
            }
            if !out.is_empty() {
                return Poll::Ready((out, false));
            }
        }
    }

    /// Events as native ones.
    fn read(&mut self, whole: Bytes) -> Result<Piece, String> {
        match &mut self.foreign {
            None => Ok(Piece { came: Bytes::new(), native: whole }),
            Some(foreign) => match foreign.events(&whole) {
                Ok(native) => Ok(Piece { came: whole, native }),
                Err(unread) => Err(unread.why().0),
            },
        }
    }

    fn say(&mut self, piece: Piece, dialect: &mut Dialect, ledger: &mut Ledger) -> Vec<u8> {
        let native = self.tidy.pass(&piece.native, ledger);
        match &self.foreign {
            // It reads along for the account.
            Some(foreign) if foreign.untouched => piece.came.to_vec(),
            _ if native.is_empty() => Vec::new(),
            _ => dialect.events(native),
        }
    }

    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, String>> {
        loop {
            match self.gather.poll(cx, &mut self.body) {
                Poll::Ready(None) => return Poll::Ready(Ok(None)),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.to_string())),
                Poll::Ready(Some(Ok(data))) => {
                    self.stall.as_mut().reset(Instant::now() + self.stall_timeout);
                    if let Some(whole) = self.framer.push(data).map_err(|e| e.to_string())? {
                        return Poll::Ready(Ok(Some(whole)));
                    }
                }
                // What has come has only to wait for its turn.
                Poll::Pending if self.gather.came.is_some() => return Poll::Pending,
                Poll::Pending => {
                    ready!(self.stall.as_mut().poll(cx));
                    return Poll::Ready(Err(format!("it was silent for {:?}", self.stall_timeout)));
                }
            }
        }
    }

    /// A stream that broke off never looks like one that ended.
    fn end(&mut self, cause: Option<String>, dialect: &mut Dialect, ledger: &mut Ledger) -> Vec<u8> {
        let mut out = Vec::new();
        let mut untouched = false;
        if let Some(foreign) = &mut self.foreign {
            untouched = foreign.untouched;
            if let Ok(native) = foreign.finish(cause.is_none()) {
                out = self.say(Piece { came: Bytes::new(), native }, dialect, ledger);
            }
        }
        let clean = self.tidy.complete && !self.framer.is_mid_event();
        if clean {
            ledger.settle(200);
            if !untouched {
                out.extend(dialect.finish(true));
            }
            return out;
        }
        let cause = cause.unwrap_or_else(|| "it ended before the answer did".into());
        tracing::warn!(node = self.node, cause, "a node's stream broke off");
        ledger.broke(&cause);
        let message = "the node's stream broke off before the answer was complete; try again";
        let refusal = Refusal::new(StatusCode::BAD_GATEWAY, "upstream_broken", message);
        out.extend(dialect.events(refusal.event().into()));
        out.extend(dialect.finish(false));
        out
    }
}

impl Tidy {
    /// Meters whole events; gives back what of them the client should see, copied only where it differs.
    fn pass(&mut self, whole: &Bytes, ledger: &mut Ledger) -> Bytes {
        let mut kept: Option<Vec<u8>> = None;
        let mut at = 0;
        for event in sse::events(whole) {
            let replacement = self.event(event, ledger);
            if let (None, true) = (&kept, replacement.is_some()) {
                kept = Some(whole[..at].to_vec());
            }
            if let Some(kept) = &mut kept {
                kept.extend_from_slice(replacement.as_deref().unwrap_or(event.0));
            }
            at += event.0.len();
        }
        kept.map_or_else(|| whole.clone(), Bytes::from)
    }

    /// What the event is replaced by: `None` = itself, empty = nothing.
    fn event(&mut self, event: sse::Event<'_>, ledger: &mut Ledger) -> Option<Vec<u8>> {
        let data = event.data()?;
        if &*data == b"[DONE]" {
            self.complete = true;
            let waited = self.waited(&data)?;
            return Some([&waited, event.0].concat());
        }
        let chunk: Chunk<'_> = serde_json::from_slice(&data).ok()?;
        if chunk.error.is_some() {
            ledger.broke("the node sent an error event");
            self.complete = true; // the error event is the end that the client is told
        }
        if let Some(usage) = chunk.usage {
            ledger.usage(usage);
        }
        if chunk.choices.iter().any(says_something) {
            ledger.token();
        }
        // A refusal too, which is no token.
        if let Some(transcript) = &mut ledger.transcript {
            transcript.heard(&data);
        }
        self.complete |= chunk
            .choices
            .iter()
            .any(|c| c.finish_reason.is_some_and(|r| !matches!(r.get(), "null" | "\"\"")));
        if self.hide_usage && chunk.choices.is_empty() && chunk.usage.is_some() {
            return Some(self.waited(&data).unwrap_or_default());
        }
        if let Some(hygiene) = &mut self.hygiene
            && let Some(tidied) = hygiene.pass(&chunk, &data, self.rename.as_deref())
        {
            return Some(tidied);
        }
        replace_model(event.0, chunk.model?.get(), self.rename.as_ref()?)
    }

    /// What goes before that which ends the answer.
    fn waited(&mut self, data: &[u8]) -> Option<Vec<u8>> {
        let hygiene = self.hygiene.as_mut().filter(|hygiene| hygiene.is_holding())?;
        Some(hygiene.flush(data, self.rename.as_deref()))
    }
}

impl Hygiene {
    /// The chunk as a client adds it up rightly; `None` where it is that already.
    fn pass(&mut self, chunk: &Chunk<'_>, data: &[u8], model: Option<&str>) -> Option<Vec<u8>> {
        // Answers beside the first one are not looked into.
        let [choice] = &chunk.choices[..] else { return None };
        if choice.index.unwrap_or(0) != 0 {
            return None;
        }
        let (role, calls) =
            choice.delta.as_ref().map_or((false, false), |d| (d.role.is_some(), d.tool_calls.is_some()));
        let role_again = self.role_again(role);
        (role_again || calls || self.is_holding()).then(|| self.tidy(data, role_again, model)).flatten()
    }
}

fn says_something(choice: &Choice<'_>) -> bool {
    let told = |raw: Option<&RawValue>| raw.is_some_and(|raw| !matches!(raw.get(), "null" | "\"\"" | "[]"));
    let delta = choice.delta.as_ref();
    let in_delta = delta.is_some_and(|d| {
        told(d.content) || told(d.reasoning_content) || told(d.reasoning) || told(d.tool_calls)
    });
    in_delta || told(choice.text)
}

/// The answer with its `"model"` under another name; `None` where there is nothing to change.
pub(super) fn rename(json: &[u8], to: &str) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        model: &'a RawValue,
    }
    replace_model(json, serde_json::from_slice::<Named<'_>>(json).ok()?.model.get(), to)
}

/// Replaces the value of the first `"model"` where it is `from`, as it is written. Inside a JSON string quotes are
/// escaped, so what a model says cannot be mistaken for the key.
fn replace_model(json: &[u8], from: &str, to: &str) -> Option<Vec<u8>> {
    const KEY: &[u8] = b"\"model\"";
    let skip_space = |mut at: usize| {
        while json.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        at
    };
    let to = serde_json::Value::from(to).to_string();
    if from == to {
        return None;
    }
    let key = memchr::memmem::find(json, KEY)?;
    let colon = skip_space(key + KEY.len());
    let value = skip_space(colon + usize::from(json.get(colon) == Some(&b':')));
    let is_it = json[value..].starts_with(from.as_bytes());
    is_it.then(|| [&json[..value], to.as_bytes(), &json[value + from.len()..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renames_the_key_and_nothing_that_looks_like_it() {
        let check = |json: &str, want: Option<&str>| {
            let got = rename(json.as_bytes(), "b").map(|out| String::from_utf8(out).unwrap());
            assert_eq!(got.as_deref(), want, "{json}");
        };
        check(r#"{"model":"a","x":1}"#, Some(r#"{"model":"b","x":1}"#));
        check(r#"{"model" : "/a/\"c.gguf"}"#, Some(r#"{"model" : "b"}"#));
        check(r#"{"model":null}"#, Some(r#"{"model":"b"}"#));
        check(r#"{"model":"b"}"#, None);
        check(r#"{"content":"say \"model\":\"a\""}"#, None);
        check(r#"{"model""#, None);
        check("", None);
    }
}
