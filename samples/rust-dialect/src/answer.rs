//! Native answers as those of generateContent, whole and streamed.

use policy_chat::answer::{Finish, Usage, Whole};
use policy_chat::error::NativeError;
use policy_chat::sse;
use policy_chat::stream::{First, Kind, NewCall, Writer};
use serde_json::{Value, json};

/// The error is for the log.
pub fn whole(body: &[u8], seed: u64, model: &str) -> Result<Value, String> {
    let whole = Whole::read(body, seed)?;
    let mut parts = Vec::new();
    parts.extend(whole.thoughts.as_ref().map(|text| json!({"text": text, "thought": true})));
    parts.extend(whole.words.as_ref().map(|text| json!({"text": text})));
    parts.extend(whole.calls.iter().map(|call| function_call(&call.id, &call.name, call.object())));
    Ok(response(parts, Some(&whole.finish), Some(&whole.usage), model))
}

pub fn error(native: &NativeError) -> Value {
    let status = match native.status {
        400 | 413 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "INTERNAL",
    };
    json!({"error": {"code": native.status, "message": native.message, "status": status}})
}

fn function_call(id: &str, name: &str, arguments: &str) -> Value {
    let args: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
    json!({"functionCall": {"id": id, "name": name, "args": args}})
}

fn response(parts: Vec<Value>, finish: Option<&Finish>, usage: Option<&Usage>, model: &str) -> Value {
    let mut candidate = json!({"content": {"role": "model", "parts": parts}, "index": 0});
    if let Some(finish) = finish {
        candidate["finishReason"] = match finish {
            Finish::Length => "MAX_TOKENS",
            Finish::Filtered => "SAFETY",
            Finish::Stop { .. } | Finish::Called => "STOP",
        }
        .into();
    }
    let mut response = json!({"candidates": [candidate], "modelVersion": model});
    if let Some(usage) = usage {
        response["usageMetadata"] = json!({
            "promptTokenCount": usage.prompt_tokens, "cachedContentTokenCount": usage.cached(),
            "candidatesTokenCount": usage.completion_tokens - usage.reasoning().min(usage.completion_tokens),
            "thoughtsTokenCount": usage.reasoning(),
            "totalTokenCount": usage.prompt_tokens + usage.completion_tokens});
    }
    response
}

/// The stream: parts as they come. A call is one part, so it is said when it is whole.
#[derive(Default)]
pub struct Parts {
    pub model: String,
    call: (String, String),
    arguments: String,
}

impl Parts {
    fn part(&self, part: Value, out: &mut Vec<u8>) {
        sse::data(out, &response(vec![part], None, None, &self.model));
    }
}

impl Writer for Parts {
    fn begin(&mut self, _first: First, _out: &mut Vec<u8>) {}

    fn open(&mut self, _kind: Kind, call: Option<NewCall<'_>>, _out: &mut Vec<u8>) {
        if let Some(call) = call {
            self.call = (call.id.to_owned(), call.name.to_owned());
            self.arguments.clear();
        }
    }

    fn delta(&mut self, kind: Kind, text: &str, out: &mut Vec<u8>) {
        match kind {
            Kind::Words => self.part(json!({"text": text}), out),
            Kind::Thoughts => self.part(json!({"text": text, "thought": true}), out),
            Kind::Call => self.arguments.push_str(text),
        }
    }

    fn close(&mut self, kind: Kind, _cut: bool, out: &mut Vec<u8>) {
        if kind == Kind::Call {
            self.part(function_call(&self.call.0, &self.call.1, &self.arguments), out);
        }
    }

    fn end(&mut self, finish: &Finish, usage: &Usage, out: &mut Vec<u8>) {
        sse::data(out, &response(Vec::new(), Some(finish), Some(usage), &self.model));
    }

    fn fail(&mut self, native: &NativeError, out: &mut Vec<u8>) {
        sse::data(out, &error(native));
    }
}
