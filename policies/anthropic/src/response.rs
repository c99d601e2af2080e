//! Whole native answers as Anthropic's.

use serde_json::{Value, json};

/// A chat completion as a message.
pub fn message(native: &Value, id: &str, model: &str) -> Result<Value, String> {
    let choice = native["choices"].get(0).ok_or("the native answer has no choice")?;
    let said = &choice["message"];
    let mut content = Vec::new();
    if let Some(thoughts) = reasoning(said) {
        content.push(json!({"type": "thinking", "thinking": thoughts, "signature": ""}));
    }
    if let Some(text) = said["content"].as_str().filter(|t| !t.is_empty()) {
        content.push(json!({"type": "text", "text": text}));
    }
    let calls = said["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
    content.extend(calls.iter().enumerate().map(|(at, call)| {
        let function = &call["function"];
        json!({"type": "tool_use", "id": tool_id(call["id"].as_str(), id, at), "name": function["name"],
               "input": arguments(function["arguments"].as_str().unwrap_or_default())})
    }));
    let (stop_reason, stop_sequence) = stop(choice, !calls.is_empty());
    Ok(json!({"id": id, "type": "message", "role": "assistant", "model": model, "content": content,
              "stop_reason": stop_reason, "stop_sequence": stop_sequence, "usage": usage(&native["usage"])}))
}

/// Thoughts of a message or a delta, under either of the names in use.
pub fn reasoning(said: &Value) -> Option<&str> {
    said["reasoning_content"].as_str().or(said["reasoning"].as_str()).filter(|t| !t.is_empty())
}

/// Why the answer ended, and the stop text where the node says which one it was.
pub fn stop(choice: &Value, called: bool) -> (&'static str, Option<&str>) {
    match (choice["finish_reason"].as_str(), choice["stop_reason"].as_str()) {
        (Some("length"), _) => ("max_tokens", None),
        (Some("content_filter"), _) => ("refusal", None),
        (Some("tool_calls" | "function_call"), _) => ("tool_use", None),
        // Some servers say `stop` although they called.
        _ if called => ("tool_use", None),
        (_, Some(text)) => ("stop_sequence", Some(text)),
        _ => ("end_turn", None),
    }
}

/// Ids as Anthropic's SDKs accept them; made where the node sent none.
pub fn tool_id(native: Option<&str>, message: &str, at: usize) -> String {
    match native.filter(|id| !id.is_empty()) {
        Some(id) => {
            id.chars().map(|c| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '_' }).collect()
        }
        None => format!("toolu_{}_{at}", message.trim_start_matches("msg_")),
    }
}

/// `input` is always an object.
fn arguments(json: &str) -> Value {
    match serde_json::from_str(json) {
        Ok(Value::Object(map)) => map.into(),
        _ => json!({}),
    }
}

/// Tokens; Anthropic counts the cached ones apart.
pub fn usage(native: &Value) -> Value {
    let count = |v: &Value| v.as_u64().unwrap_or(0);
    let cached = count(&native["prompt_tokens_details"]["cached_tokens"]);
    json!({"input_tokens": count(&native["prompt_tokens"]).saturating_sub(cached),
           "cache_creation_input_tokens": 0, "cache_read_input_tokens": cached,
           "output_tokens": count(&native["completion_tokens"])})
}

/// The list of models.
pub fn models(native: &Value) -> Value {
    let list = native["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let data: Vec<Value> = list.iter().map(model).collect();
    let id = |m: Option<&Value>| m.map_or(Value::Null, |m| m["id"].clone());
    json!({"first_id": id(data.first()), "last_id": id(data.last()), "has_more": false, "data": data})
}

/// One model.
pub fn model(native: &Value) -> Value {
    json!({"type": "model", "id": native["id"], "display_name": native["id"],
           "created_at": rfc3339(native["created"].as_u64().unwrap_or(0))})
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

    #[test]
    fn tool_ids_fit_the_pattern() {
        let check = |native, want: &str| assert_eq!(tool_id(native, "msg_ab", 1), want);
        check(Some("call_1-x"), "call_1-x");
        check(Some("functions.f:0"), "functions_f_0");
        check(None, "toolu_ab_1");
        check(Some(""), "toolu_ab_1");
    }
}
