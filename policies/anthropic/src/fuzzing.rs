//! A whole session with bytes that may be anything: nothing panics, and what is written is well-formed.

use crate::session::Session;
use crate::settings::Settings;
use policy_chat::fuzzing::{body, events, halves};
use serde_json::Value;

/// `data`: a request, and behind a zero byte a stream or a whole answer.
pub fn run(data: &[u8]) {
    let (asked, answered) = halves(data);
    for endpoint in [0, 1] {
        let mut session = Session::new(endpoint, 7, Settings::default());
        match session.request("/v1/messages", asked) {
            Ok((_, native)) => {
                let Some(native) = body(&native) else { continue };
                assert!(native["model"].as_str().is_some_and(|model| !model.is_empty()));
                assert!(!native["messages"].as_array().expect("messages").is_empty());
            }
            Err(why) => assert!(!why.is_empty()),
        }
        for status in [200, 400] {
            if let Ok(said) = session.response(status, "req_1", answered) {
                drop(serde_json::from_slice::<Value>(&said).expect("an answer is JSON"));
            }
        }
        let out = [session.events(answered), session.finish()].concat();
        if let Some(events) = events(&out) {
            check(&events);
        }
    }
}

/// Blocks nest, indices are dense, and one event ends it.
fn check(events: &[Value]) {
    let (mut open, mut next) = (None, 0);
    for event in events {
        match event["type"].as_str().expect("a type") {
            "content_block_start" => {
                assert!(open.is_none() && event["index"] == next);
                open = Some(next);
                next += 1;
            }
            "content_block_delta" => assert_eq!(event["index"].as_u64(), open),
            "content_block_stop" => assert_eq!(event["index"].as_u64(), open.take()),
            _ => {}
        }
    }
    let ends = |event: &&Value| event["type"] == "message_stop" || event["type"] == "error";
    assert_eq!(events.iter().filter(ends).count(), 1);
    assert!(events.last().is_some_and(|last| ends(&last)));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn golden(folder: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(folder);
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files
            .filter(|file| file.extension().is_some_and(|e| e != "snap"))
            .map(|file| std::fs::read(file).unwrap())
            .collect()
    }

    /// The golden requests with the golden streams and answers, and what becomes of them.
    #[test]
    fn nothing_is_too_strange() {
        let answers = [golden("streams"), golden("answers")].concat();
        let seeds: Vec<Vec<u8>> = golden("requests")
            .iter()
            .flat_map(|request| answers.iter().map(|answer| [&request[..], b"\0", &answer[..]].concat()))
            .collect();
        policy_chat::fuzzing::mutations(&seeds, 500, super::run);
    }
}
