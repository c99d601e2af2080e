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
        match session.request(asked) {
            Ok((_, native)) => {
                let Some(native) = body(&native) else { continue };
                assert!(native["model"].as_str().is_some_and(|model| !model.is_empty()));
            }
            Err(why) => assert!(!why.is_empty()),
        }
        if let Ok(said) = session.response(200, answered) {
            drop(body(&said));
        }
        let out = [session.events(answered), session.finish()].concat();
        if let Some(events) = events(&out) {
            check(&events);
        }
    }
}

/// Events are numbered, items end, and the last event has all of them.
fn check(events: &[Value]) {
    let mut done = Vec::new();
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], at);
        match event["type"].as_str().expect("a type") {
            "response.output_item.added" => assert_eq!(event["output_index"], done.len()),
            "response.output_item.done" => done.push(event["item"].clone()),
            _ => {}
        }
    }
    let last = events.last().expect("an end");
    let kinds = ["response.completed", "response.incomplete", "response.failed"];
    assert!(kinds.iter().any(|kind| last["type"] == *kind));
    assert_eq!(last["response"]["output"], Value::from(done));
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
