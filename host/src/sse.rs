//! Server-sent events: bytes to whole events, whatever the pieces in which they come.

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use std::borrow::Cow;

/// Bytes of one event; a longer one is not a model's.
const EVENT_LIMIT: usize = 16 << 20;

/// Collects bytes until events are whole.
#[derive(Debug, Default)]
pub(crate) struct Framer {
    partial: BytesMut,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {EVENT_LIMIT} bytes")]
pub(crate) struct EventTooLong;

impl Framer {
    /// All events that are whole now, in one piece with their blank lines.
    pub(crate) fn push(&mut self, data: Bytes) -> Result<Option<Bytes>, EventTooLong> {
        if self.partial.is_empty() {
            // The usual case: a read ends where an event ends, and nothing is copied.
            let end = whole_upto(&data, 0);
            self.partial.extend_from_slice(&data[end..]);
            return Ok(Some(data.slice(..end)).filter(|whole| !whole.is_empty()));
        }
        if self.partial.len() + data.len() > EVENT_LIMIT {
            return Err(EventTooLong);
        }
        // A blank line may begin in the part that was scanned before.
        let scanned = self.partial.len().saturating_sub(3);
        self.partial.extend_from_slice(&data);
        let end = whole_upto(&self.partial, scanned);
        Ok(Some(self.partial.split_to(end).freeze()).filter(|whole| !whole.is_empty()))
    }

    /// Whether an event has begun that is not whole.
    pub(crate) fn is_mid_event(&self) -> bool {
        self.partial.iter().any(|b| !b.is_ascii_whitespace())
    }
}

/// Where the last blank line at or after `from` ends; 0 where there is none.
fn whole_upto(data: &[u8], from: usize) -> usize {
    let last = |line: &[u8]| memmem::rfind(&data[from..], line).map_or(0, |at| from + at + line.len());
    last(b"\n\n").max(last(b"\n\r\n"))
}

/// One event, with its blank line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event<'a>(pub(crate) &'a [u8]);

impl<'a> Event<'a> {
    /// What its `event` field says.
    pub(crate) fn name(self) -> Option<&'a str> {
        let named = |line: &'a [u8]| std::str::from_utf8(line.strip_prefix(b"event:")?).ok();
        self.0.split(|&b| b == b'\n').find_map(named).map(str::trim)
    }

    /// Its `data`, lines joined; `None` for comments and other fields alone.
    pub(crate) fn data(self) -> Option<Cow<'a, [u8]>> {
        let mut data: Option<Cow<'a, [u8]>> = None;
        for line in self.0.split(|&b| b == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let Some(value) = line.strip_prefix(b"data:") else { continue };
            let value = value.strip_prefix(b" ").unwrap_or(value);
            data = Some(match data {
                None => Cow::Borrowed(value),
                Some(before) => [&before, &b"\n"[..], value].concat().into(),
            });
        }
        data
    }
}

/// The events of a piece that [`Framer::push`] gave.
pub(crate) fn events(mut whole: &[u8]) -> impl Iterator<Item = Event<'_>> {
    std::iter::from_fn(move || {
        if whole.is_empty() {
            return None;
        }
        let end = |line: &[u8]| memmem::find(whole, line).map_or(whole.len(), |at| at + line.len());
        let (event, rest) = whole.split_at(end(b"\n\n").min(end(b"\n\r\n")));
        whole = rest;
        Some(Event(event))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data_of(stream: &[u8], cuts: &[usize]) -> Vec<String> {
        let mut framer = Framer::default();
        let mut out = Vec::new();
        let mut cuts: Vec<usize> =
            cuts.iter().map(|c| c % (stream.len() + 1)).chain([0, stream.len()]).collect();
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            let piece = Bytes::copy_from_slice(&stream[pair[0]..pair[1]]);
            if let Some(whole) = framer.push(piece).unwrap() {
                out.extend(
                    events(&whole)
                        .filter_map(Event::data)
                        .map(|d| String::from_utf8(d.into_owned()).unwrap()),
                );
            }
        }
        out
    }

    const STREAM: &str = ": hello\n\ndata: {\"a\":\"é\"}\n\nevent: x\r\ndata: one\r\ndata: two\r\n\r\ndata:last\n\ndata: cut off";

    #[test]
    fn frames_lf_crlf_and_comments() {
        assert_eq!(data_of(STREAM.as_bytes(), &[]), ["{\"a\":\"é\"}", "one\ntwo", "last"]);
    }

    #[test]
    fn an_event_may_have_a_name() {
        let names: Vec<_> = events(STREAM.as_bytes()).map(Event::name).collect();
        assert_eq!(names[..3], [None, None, Some("x")]);
    }

    #[test]
    fn an_endless_event_is_an_error() {
        let mut framer = Framer::default();
        framer.push(Bytes::from_static(b"data: ")).unwrap();
        assert_eq!(framer.push(Bytes::from(vec![b'x'; EVENT_LIMIT])), Err(EventTooLong));
    }

    proptest! {
        /// How the bytes are cut, inside a character or a blank line too, makes no difference.
        #[test]
        fn cuts_do_not_matter(cuts in prop::collection::vec(any::<usize>(), 0..12)) {
            prop_assert_eq!(data_of(STREAM.as_bytes(), &cuts), data_of(STREAM.as_bytes(), &[]));
        }
    }
}
