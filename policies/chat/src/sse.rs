//! Server-sent events: whole ones in, whole ones out.

use serde::Serialize;
use std::borrow::Cow;

/// Calls `each` with the data of every event; comments and other fields mean nothing here. The bytes are whole
/// events, as the host gives them.
pub fn each(sse: &[u8], mut each: impl FnMut(&[u8])) {
    let mut data: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let (mut rest, mut more) = (sse, true);
    while more {
        let line;
        (line, rest, more) = match memchr::memchr(b'\n', rest) {
            Some(at) => (&rest[..at], &rest[at + 1..], true),
            None => (rest, &[][..], false),
        };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            if !data.is_empty() {
                each(&data);
                data = Cow::Borrowed(&[]);
            }
        } else if let Some(value) = line.strip_prefix(b"data:") {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            if data.is_empty() {
                data = Cow::Borrowed(value);
            } else {
                data.to_mut().push(b'\n');
                data.to_mut().extend_from_slice(value);
            }
        }
    }
}

/// An event with a name.
pub fn event(out: &mut Vec<u8>, name: &str, payload: &impl Serialize) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
    data(out, payload);
}

/// An event of data alone.
pub fn data(out: &mut Vec<u8>, payload: &impl Serialize) {
    out.extend_from_slice(b"data: ");
    json(out, payload);
    out.extend_from_slice(b"\n\n");
}

/// A value as JSON.
pub fn json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Into memory, and of types whose keys are strings: it cannot fail.
    serde_json::to_writer(out, value).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_events() {
        let check = |sse: &str, want: &[&str]| {
            let mut got = Vec::new();
            each(sse.as_bytes(), |data| got.push(String::from_utf8(data.to_vec()).unwrap()));
            assert_eq!(got, want, "{sse:?}");
        };
        check("data: a\n\ndata:b\r\n\r\n", &["a", "b"]);
        check(": c\n\nevent: x\ndata: a\ndata: b\nid: 1\n\n", &["a\nb"]);
        check("event: x\n\n\n\n", &[]);
        check("", &[]);
    }
}
