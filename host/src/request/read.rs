//! A request's body: bounded, and parsed only as far as it is acted on.

use super::recognise::Inference;
use crate::config::Defaults;
use crate::fleet::Conversation;
use crate::refusal::Refusal;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::error::Error;
use std::ops::Range;
use std::time::Duration;

/// What is read of a body that is too large, so that its client, which may write all of it before it
/// reads, gets to see the refusal.
const DRAIN_LIMIT: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// What requests come in.
pub(crate) trait Inbound:
    Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + Send
{
}

impl<B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + Send> Inbound for B {}

/// The whole body; a 408 where it takes longer than `time`.
pub(super) async fn read(
    body: impl Inbound,
    headers: &HeaderMap,
    limit: usize,
    time: Duration,
) -> Result<Bytes, Refusal> {
    // Small ones may become of any size, and no SDK sends them.
    let encoding = headers
        .get(header::CONTENT_ENCODING)
        .filter(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if let Some(encoding) = encoding {
        let encoding = String::from_utf8_lossy(encoding.as_bytes());
        let message = format!("a body under content-encoding {encoding:?} is not taken; send it as it is");
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message));
    }
    tokio::time::timeout(time, bounded(body, headers, limit)).await.unwrap_or_else(|_| {
        let message = format!("the request body did not arrive within {} s", time.as_secs_f64());
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message))
    })
}

/// A 413 past `limit` bytes, told from the header alone where there is one.
async fn bounded(mut body: impl Inbound, headers: &HeaderMap, limit: usize) -> Result<Bytes, Refusal> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_none_or(|length| length <= limit) {
        match Limited::new(&mut body, limit).collect().await {
            Ok(body) => return Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {}
            Err(error) => return Err(Refusal::invalid(None, format!("the request body broke off: {error}"))),
        }
    }
    let _as_far_as_it_goes = tokio::time::timeout(DRAIN_TIME, drain(body)).await;
    let message = format!("the request body is larger than {} MiB", limit >> 20);
    Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message))
}

async fn drain(mut body: impl Inbound) {
    let mut drained = 0;
    while let Some(Ok(frame)) = body.frame().await {
        drained += frame.data_ref().map_or(0, Bytes::len);
        if drained > DRAIN_LIMIT {
            return;
        }
    }
}

/// A native request with the places in it that the gateway rewrites.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) body: Bytes,
    pub(super) model: String,
    model_at: Range<usize>,
    pub(super) stream: bool,
    /// Whether the client itself asked for the usage chunk.
    pub(super) usage_wanted: bool,
    stream_options_at: Option<Range<usize>>,
    pub(super) max_tokens: Option<u32>,
    /// Stays the same over a conversation's turns.
    pub(super) session: Session,
    /// What the conversation consists of, for those who look for its beginning.
    parts: Parts,
}

/// Fields in their order.
#[derive(Debug, Default)]
struct Given<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Given<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> serde::de::Visitor<'de> for Entries {
            type Value = Given<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Given<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Given(entries))
            }
        }
        from.deserialize_map(Entries)
    }
}

/// Where in the body a conversation's parts lie.
#[derive(Debug, Default)]
struct Parts {
    tools: Option<Range<usize>>,
    template_arguments: Option<Range<usize>>,
    messages: Vec<Range<usize>>,
}

/// What tells conversations apart, before it is salted with tenant and model.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) user: Option<String>,
    /// Tools and messages up to the first one of the user's, as JSON.
    pub(super) opening: Vec<String>,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    stream: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    stream_options: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_choice: Option<&'a RawValue>,
    #[serde(borrow)]
    chat_template_kwargs: Option<&'a RawValue>,
    #[serde(borrow)]
    user: Option<&'a RawValue>,
    #[serde(borrow)]
    max_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    max_completion_tokens: Option<&'a RawValue>,
}

/// A null too, which serde takes for absent: it has a place in the body, and a second key beside it would not count.
fn present<'de, D: serde::Deserializer<'de>>(raw: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(raw).map(Some)
}

/// Errors name the field that is wrong.
pub(super) fn parse(kind: Inference, body: Bytes) -> Result<Asked, Refusal> {
    let first = body.iter().find(|b| !b.is_ascii_whitespace());
    if first.is_some_and(|&b| b != b'{') && serde_json::from_slice::<&RawValue>(&body).is_ok() {
        return Err(Refusal::invalid(None, "the request body must be a JSON object"));
    }
    let fields: Fields<'_> = serde_json::from_slice(&body)
        .map_err(|e| Refusal::invalid(None, format!("the request body is not valid JSON: {e}")))?;
    let model = fields.model.ok_or(Refusal::invalid(Some("model"), "model: a string is required"))?;
    let name: String = typed("model", "a string", model)?;
    if name.is_empty() {
        return Err(Refusal::invalid(Some("model"), "model: a non-empty string is required"));
    }
    let stream: Option<bool> = optional("stream", "true or false", fields.stream)?;
    let options: Option<StreamOptions> = optional("stream_options", "an object", fields.stream_options)?;
    let user: Option<String> = optional("user", "a string", fields.user)?;
    let messages: Option<Vec<&RawValue>> = optional("messages", "a list of messages", fields.messages)?;
    let wanted = match kind {
        Inference::Chat => Some("messages: a list of at least one message is required"),
        Inference::Tokenize if fields.prompt.is_none() => {
            Some("messages: a list of at least one message is required, or a prompt")
        }
        _ => None,
    };
    if let Some(wanted) = wanted.filter(|_| messages.as_ref().is_none_or(Vec::is_empty)) {
        return Err(Refusal::invalid(Some("messages"), wanted));
    }
    let tokens = |raw: Option<&RawValue>| raw.and_then(|raw| serde_json::from_str(raw.get()).ok());
    let messages = messages.unwrap_or_default();
    // Tools that may not be called are not rendered.
    let rendered =
        fields.tools.filter(|_| fields.tool_choice.is_none_or(|choice| choice.get() != r#""none""#));
    let parts = Parts {
        tools: rendered.map(|raw| place(&body, raw)),
        template_arguments: fields.chat_template_kwargs.map(|raw| place(&body, raw)),
        messages: messages.iter().map(|raw| place(&body, raw)).collect(),
    };
    let mut opening: Vec<String> = fields.tools.map(|tools| tools.get().to_owned()).into_iter().collect();
    opening.extend(up_to_first_user(messages));
    Ok(Asked {
        model: name,
        model_at: place(&body, model),
        stream: stream.unwrap_or(false),
        usage_wanted: options.is_some_and(|o| o.include_usage == Some(true)),
        stream_options_at: fields.stream_options.map(|raw| place(&body, raw)),
        max_tokens: tokens(fields.max_completion_tokens).or(tokens(fields.max_tokens)),
        session: Session { user, opening },
        parts,
        body: body.clone(),
    })
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

fn optional<'a, T: Deserialize<'a>>(
    field: &'static str,
    expected: &str,
    raw: Option<&'a RawValue>,
) -> Result<Option<T>, Refusal> {
    raw.filter(|raw| raw.get() != "null").map(|raw| typed(field, expected, raw)).transpose()
}

fn typed<'a, T: Deserialize<'a>>(
    field: &'static str,
    expected: &str,
    raw: &'a RawValue,
) -> Result<T, Refusal> {
    serde_json::from_str(raw.get()).map_err(|_| {
        let shown: String = raw.get().chars().take(40).collect();
        Refusal::invalid(Some(field), format!("{field}: expected {expected}, got {shown}"))
    })
}

fn up_to_first_user(messages: Vec<&RawValue>) -> Vec<String> {
    #[derive(Deserialize)]
    struct Role {
        role: Option<String>,
    }
    let is_user = |raw: &RawValue| {
        serde_json::from_str::<Role>(raw.get()).is_ok_and(|m| m.role.as_deref() == Some("user"))
    };
    let upto = messages.iter().position(|raw| is_user(raw)).map_or(messages.len(), |at| at + 1);
    messages[..upto].iter().map(|raw| raw.get().to_owned()).collect()
}

/// Where a borrowed value lies in the body that it was parsed from.
fn place(body: &Bytes, raw: &RawValue) -> Range<usize> {
    let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
    start..start + raw.get().len()
}

impl Asked {
    /// The conversation in the client's spelling.
    pub(super) fn conversation<'a>(&'a self, tenant: &'a str) -> Conversation<'a> {
        // The body was parsed as JSON, so it is UTF-8.
        let text = |at: &Range<usize>| std::str::from_utf8(&self.body[at.clone()]).unwrap_or_default();
        let Parts { tools, template_arguments, messages } = &self.parts;
        let messages = messages.iter().map(text).collect();
        Conversation::new(tenant, tools.as_ref().map(text), template_arguments.as_ref().map(text), messages)
    }

    /// The body for a node: `model` under the node's name, the usage chunk asked for where the answer streams, and
    /// what the operator has stand in for fields that are not there. Every other byte is the client's.
    pub(super) fn for_node(&self, model: &str, defaults: &Defaults) -> Bytes {
        let mut edits: Vec<(Range<usize>, String)> = Vec::new();
        if model != self.model {
            edits.push((self.model_at.clone(), serde_json::Value::from(model).to_string()));
        }
        if self.stream && !self.usage_wanted {
            edits.push(self.usage_edit());
        }
        if !defaults.is_empty() {
            self.stand_in(defaults, &mut edits);
        }
        if edits.is_empty() {
            return self.body.clone();
        }
        edits.sort_by_key(|(at, _)| at.start);
        let mut out = Vec::with_capacity(self.body.len() + 64);
        let mut copied = 0;
        for (at, text) in edits {
            out.extend_from_slice(&self.body[copied..at.start]);
            out.extend_from_slice(text.as_bytes());
            copied = at.end;
        }
        out.extend_from_slice(&self.body[copied..]);
        out.into()
    }

    /// A field that is null is as good as one that is not there, but it has its place already.
    fn stand_in(&self, defaults: &Defaults, edits: &mut Vec<(Range<usize>, String)>) {
        // One thing under two names.
        const SAME: [[&str; 2]; 2] =
            [["max_tokens", "max_completion_tokens"], ["reasoning_budget", "thinking_budget"]];
        // Read once more: few models have such settings.
        let Given(given) = serde_json::from_slice(&self.body).unwrap_or_default();
        let is_null = |raw: &RawValue| raw.get() == "null";
        let has = |name: &str| given.iter().any(|(given, raw)| given == name && !is_null(raw));
        let other =
            |name: &str| SAME.iter().any(|names| names.contains(&name) && names.iter().any(|n| has(n)));
        let mut missing = String::new();
        for (name, value) in defaults.values().filter(|(name, _)| !has(name) && !other(name)) {
            match given.iter().rfind(|(given, _)| given == name) {
                Some((_, null)) => edits.push((place(&self.body, null), value)),
                None => missing += &format!(",\"{name}\":{value}"),
            }
        }
        let end = self.model_at.end;
        edits.push((end..end, missing));
    }

    fn usage_edit(&self) -> (Range<usize>, String) {
        match &self.stream_options_at {
            Some(at) => {
                let mut options: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_slice(&self.body[at.clone()]).unwrap_or_default();
                options.insert("include_usage".into(), true.into());
                (at.clone(), serde_json::Value::from(options).to_string())
            }
            None => {
                // Behind `model`, which is there: no comma to guess at.
                let end = self.model_at.end;
                (end..end, r#","stream_options":{"include_usage":true}"#.into())
            }
        }
    }
}

#[cfg(test)]
mod tests;
