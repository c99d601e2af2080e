//! A whole session with bytes that may be anything: nothing panics, and what is written is well-formed.

use crate::session::Session;
use crate::settings::Settings;
use policy_chat::fuzzing::{events, halves};
use serde_json::Value;

/// `data`: a native request, and behind a zero byte the upstream's stream or whole answer.
pub fn run(data: &[u8]) {
    let (asked, answered) = halves(data);
    for path in ["/v1/chat/completions", "/tokenize"] {
        let mut session = Session::new(Settings::default());
        if let Ok((_, _, body)) = session.request(path, asked) {
            let body: Value = serde_json::from_slice(&body).expect("a request is JSON");
            assert!(body["messages"].is_array());
        }
        for status in [200, 400] {
            if let Ok((_, said)) = session.response(status, answered)
                && (status == 400 || path != "/tokenize")
            {
                drop(serde_json::from_slice::<Value>(&said).expect("an answer is JSON"));
            }
        }
        let out = [session.events(answered), session.finish()].concat();
        for chunk in events(&out).into_iter().flatten() {
            assert!(chunk["choices"].is_array() || chunk["error"].is_object(), "{chunk}");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::session::tests::STREAM;

    const REQUEST: &str = r#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"x"},
        {"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}]},{"role":"assistant","tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}}]},
        {"role":"tool","tool_call_id":"a","content":"y"}],"tools":[{"function":{"name":"f","parameters":{}}}],"tool_choice":"required","stop":"x","stream":true}"#;
    const ANSWER: &str = r#"{"id":"i","model":"m","content":[{"type":"text","text":"x"},{"type":"tool_use","id":"a","name":"f","input":{}}],"stop_reason":"tool_use","usage":{"input_tokens":1}}"#;

    #[test]
    fn nothing_is_too_strange() {
        let seeds = [STREAM, ANSWER].map(|answer| [REQUEST, "\0", answer].concat().into_bytes());
        policy_chat::fuzzing::mutations(&seeds, 2_000, super::run);
    }
}
