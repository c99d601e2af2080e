//! What a response says of the request that it answers, and the response around it.

use crate::body::Body;
use policy_chat::answer::{Finish, Usage};
use policy_chat::sse::json as write;
use policy_chat::text::Json;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The fields that are the same in every form of a response, as JSON without the braces.
#[derive(Debug, Default)]
pub(crate) struct Echo(String);

#[derive(Serialize)]
struct Fields<'a> {
    background: bool,
    instructions: Option<&'a str>,
    max_output_tokens: Option<u64>,
    max_tool_calls: Option<u64>,
    metadata: &'a RawValue,
    model: &'a str,
    parallel_tool_calls: bool,
    previous_response_id: Option<&'a str>,
    prompt_cache_key: Option<&'a str>,
    reasoning: &'a RawValue,
    safety_identifier: Option<&'a str>,
    service_tier: &'a str,
    store: bool,
    temperature: Option<&'a serde_json::Number>,
    text: &'a RawValue,
    tool_choice: &'a RawValue,
    tools: &'a RawValue,
    top_logprobs: u64,
    top_p: Option<&'a serde_json::Number>,
    truncation: &'a str,
    user: Option<&'a str>,
}

impl Echo {
    /// Fields that were not given have their defaults.
    pub(crate) fn of(body: &Body<'_>) -> Self {
        fn or<'r>(given: Option<&'r Json<'_>>, otherwise: &'r Json<'_>) -> &'r RawValue {
            given.filter(|raw| raw.get() != "null").unwrap_or(otherwise).raw()
        }
        let [object, list, auto, text, reasoning] = [
            json!({}),
            json!([]),
            json!("auto"),
            json!({"format": {"type": "text"}}),
            json!({"effort": null, "summary": null}),
        ]
        .map(|value| Json::of(&value));
        let fields = Fields {
            background: false,
            instructions: body.instructions.as_deref(),
            max_output_tokens: body.max_output_tokens,
            max_tool_calls: None,
            metadata: or(body.metadata.as_ref(), &object),
            model: &body.model,
            parallel_tool_calls: body.parallel_tool_calls.unwrap_or(true),
            previous_response_id: None,
            prompt_cache_key: body.prompt_cache_key.as_deref(),
            reasoning: or(body.reasoning.as_ref(), &reasoning),
            safety_identifier: body.safety_identifier.as_deref(),
            service_tier: "default",
            // Whatever was asked: nothing is.
            store: false,
            temperature: body.temperature.as_ref(),
            text: or(body.text.as_ref(), &text),
            tool_choice: or(body.tool_choice.as_ref(), &auto),
            tools: or(body.tools.as_ref(), &list),
            top_logprobs: 0,
            top_p: body.top_p.as_ref(),
            truncation: body.truncation.as_deref().unwrap_or("disabled"),
            user: body.user.as_deref(),
        };
        let mut out = Vec::new();
        write(&mut out, &fields);
        // What is echoed as it came may have lines, and an event's data is one. They stand between JSON's tokens.
        out.iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        // serde_json writes UTF-8, and an object in braces.
        let whole = String::from_utf8(out).unwrap_or_default();
        Self(whole.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default().to_owned())
    }

    /// A response in one of its forms; `output`: its items as JSON.
    pub(crate) fn response(&self, form: &Form<'_>, output: &[Vec<u8>], out: &mut Vec<u8>) {
        let Form { id, created, status, error, incomplete, usage } = form;
        out.extend_from_slice(br#"{"id":"#);
        write(out, id);
        out.extend_from_slice(br#","object":"response","created_at":"#);
        write(out, created);
        out.extend_from_slice(br#","status":"#);
        write(out, status);
        out.extend_from_slice(br#","error":"#);
        write(out, error);
        out.extend_from_slice(br#","incomplete_details":"#);
        write(out, &incomplete.map(|reason| json!({"reason": reason})));
        out.extend_from_slice(br#","output":["#);
        for (at, item) in output.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(item);
        }
        out.extend_from_slice(br#"],"usage":"#);
        write(out, &usage.as_ref().map(counts));
        if !self.0.is_empty() {
            out.push(b',');
            out.extend_from_slice(self.0.as_bytes());
        }
        out.push(b'}');
    }
}

/// What differs between the forms of a response.
#[derive(Default)]
pub(crate) struct Form<'a> {
    pub(crate) id: &'a str,
    /// Seconds since the Unix epoch.
    pub(crate) created: u64,
    pub(crate) status: &'a str,
    pub(crate) error: Value,
    pub(crate) incomplete: Option<&'a str>,
    pub(crate) usage: Option<Usage>,
}

fn counts(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached(), "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning()},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    })
}

/// The status that goes with an end, and why it is incomplete.
pub(crate) fn status(finish: &Finish) -> (&'static str, Option<&'static str>) {
    match finish {
        Finish::Length => ("incomplete", Some("max_output_tokens")),
        Finish::Filtered => ("incomplete", Some("content_filter")),
        Finish::Stop { .. } | Finish::Called => ("completed", None),
    }
}
