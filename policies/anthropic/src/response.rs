//! Whole native answers as Anthropic's.

use crate::request::Asked;
use policy_chat::answer::{Finish, Usage, Whole};
use policy_chat::id::escape;
use serde_json::{Value, json};

/// A chat completion as a message. The error is for the log.
pub(crate) fn message(native: &[u8], id: &str, seed: u64, asked: &Asked) -> Result<Value, String> {
    let whole = Whole::read(native, seed)?;
    let mut content = Vec::new();
    if let Some(thoughts) = &whole.thoughts {
        content.push(json!({"type": "thinking", "thinking": thoughts, "signature": ""}));
    }
    if let Some(text) = &whole.words {
        content.push(json!({"type": "text", "text": text}));
    }
    for call in &whole.calls {
        // The order of the model's keys is kept.
        let input: Value = serde_json::from_str(call.object()).unwrap_or_else(|_| json!({}));
        content.push(json!({"type": "tool_use", "id": escape(&call.id), "name": asked.names.back(&call.name), "input": input}));
    }
    let (stop_reason, stop_sequence) = stop(&whole.finish, &asked.stop_sequences);
    Ok(json!({"id": id, "type": "message", "role": "assistant", "model": asked.model, "content": content,
              "stop_reason": stop_reason, "stop_sequence": stop_sequence, "usage": usage(&whole.usage)}))
}

/// Why the answer ended, and the stop text where it was one of the client's.
pub(crate) fn stop<'f>(finish: &'f Finish, asked: &[String]) -> (&'static str, Option<&'f str>) {
    match finish {
        Finish::Length => ("max_tokens", None),
        Finish::Filtered => ("refusal", None),
        Finish::Called => ("tool_use", None),
        Finish::Stop { sequence: Some(text) } if asked.contains(text) => ("stop_sequence", Some(text)),
        Finish::Stop { .. } => ("end_turn", None),
    }
}

/// Tokens; Anthropic counts the cached ones apart.
pub(crate) fn usage(native: &Usage) -> Value {
    json!({"input_tokens": native.prompt_tokens - native.cached(), "cache_creation_input_tokens": 0,
           "cache_read_input_tokens": native.cached(), "output_tokens": native.completion_tokens})
}

/// The list of models.
pub(crate) fn models(native: &Value) -> Value {
    let list = native["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let data: Vec<Value> = list.iter().map(model).collect();
    let id = |m: Option<&Value>| m.map_or(Value::Null, |m| m["id"].clone());
    json!({"first_id": id(data.first()), "last_id": id(data.last()), "has_more": false, "data": data})
}

/// One model.
pub(crate) fn model(native: &Value) -> Value {
    json!({"type": "model", "id": native["id"], "display_name": native["id"],
           "created_at": rfc3339(native["created"].as_u64().unwrap_or(0))})
}

/// One model under the name that the client has for it.
pub(crate) fn alias(native: &Value, name: &str) -> Value {
    let mut model = model(native);
    model["id"] = name.into();
    model
}

/// Seconds since the Unix epoch as a date in UTC, by the days-to-civil algorithm for the proleptic
/// Gregorian calendar in which a year starts in March.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * shifted + 2) / 5 + 1, (shifted + 2) % 12 + 1);
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let check = |seconds, want| assert_eq!(rfc3339(seconds), want);
        check(0, "1970-01-01T00:00:00Z");
        check(951_782_399, "2000-02-28T23:59:59Z");
        check(951_782_400, "2000-02-29T00:00:00Z");
        check(1_767_225_599, "2025-12-31T23:59:59Z");
    }
}
