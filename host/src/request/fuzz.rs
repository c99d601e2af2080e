//! What clients ask and nodes answer, as bytes.

use super::read::parse;
use super::recognise::{Inference, native};
use super::relay::rename;
use super::trace::Trace;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;

/// A body that is taken reaches the node as JSON with the node's name, and all else as it was.
pub(crate) fn body(data: &[u8]) {
    for kind in [Inference::Chat, Inference::Completion, Inference::Embedding, Inference::Tokenize] {
        let Ok(asked) = parse(kind, Bytes::copy_from_slice(data)) else { continue };
        let _hashes = asked.conversation("tenant").entries("m").len();
        let sent = asked.for_node("the node's", &crate::config::Defaults::default());
        let (Ok(before), Ok(mut after)) =
            (serde_json::from_slice::<Value>(data), serde_json::from_slice::<Value>(&sent))
        else {
            // What a value is too deep for, or text that is none, is the node's to refuse.
            continue;
        };
        assert_eq!(after["model"], "the node's");
        after["model"] = before["model"].clone();
        let fields = |value: &mut Value| value.as_object_mut().map(|fields| fields.remove("stream_options"));
        let mut before = before;
        let _metering = (fields(&mut before), fields(&mut after));
        assert_eq!(before, after);
    }
}

/// An answer under another name is the same but for that.
pub(crate) fn answer(data: &[u8]) {
    let Some(renamed) = rename(data, "client's") else { return };
    let (Ok(mut before), Ok(after)) =
        (serde_json::from_slice::<Value>(data), serde_json::from_slice::<Value>(&renamed))
    else {
        return;
    };
    // The first of two such keys, or one within another object: no node writes those.
    if data.windows(7).filter(|at| at == b"\"model\"").count() == 1 {
        before["model"] = "client's".into();
        assert_eq!(before, after);
    }
}

/// A path, and the header that says of which trace it is.
pub(crate) fn head(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    native("GET", &text);
    native("POST", &text);
    if let Ok(value) = HeaderValue::from_bytes(data) {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", value);
        if let Some(trace) = Trace::of(&headers, None, 1) {
            let mut told = HeaderMap::new();
            trace.tell(&mut told, trace.attempt(1), false);
            assert_eq!(told["traceparent"].as_bytes()[3..52], data[3..52], "it passes as it came");
        }
    }
}
