//! W3C trace context: which trace a request is part of, from its client to its node.

use http::{HeaderMap, HeaderName, HeaderValue};

const PARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");

/// A request's place in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) id: u128,
    /// The client's span.
    pub(crate) parent: Option<u64>,
    /// The gateway's own.
    pub(crate) span: u64,
    pub(crate) sampled: bool,
    /// What others have added, passed on as it came.
    state: Option<HeaderValue>,
}

impl Trace {
    /// The client's, or a new one where `sample` (a share of all) is given. A header that is not well formed is none, as
    /// the standard has it. `seed`: the request's.
    pub(super) fn of(headers: &HeaderMap, sample: Option<f64>, seed: u64) -> Option<Self> {
        let span = mixed(seed);
        if let Some((id, parent, sampled)) = headers.get(PARENT).and_then(|value| parse(value.as_bytes())) {
            return Some(Self {
                id,
                parent: Some(parent),
                span,
                sampled,
                state: headers.get(STATE).cloned(),
            });
        }
        let id = (u128::from(mixed(seed ^ 1)) << 64) | u128::from(mixed(seed ^ 2));
        // The upper half decides and the lower one is left to others, who sample by it.
        let share = ((id >> 64) as u64) as f64 / u64::MAX as f64;
        sample.map(|sample| Self { id, parent: None, span, sampled: share < sample, state: None })
    }

    /// The span of a try at a node, from 1.
    pub(super) fn attempt(&self, number: u32) -> u64 {
        mixed(self.span ^ (u64::from(number) << 32))
    }

    /// What the node is told; `span`: the try's. Without an exporter of its own the gateway is no part of the trace and
    /// passes on what came.
    pub(super) fn tell(&self, headers: &mut HeaderMap, span: u64, exports: bool) {
        let span = if exports { span } else { self.parent.unwrap_or(span) };
        let text = format!("00-{:032x}-{span:016x}-{:02x}", self.id, u8::from(self.sampled));
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(PARENT, value);
        }
        if let Some(state) = &self.state {
            headers.insert(STATE, state.clone());
        }
    }
}

/// Trace, span, and whether it is sampled. Later versions may say more behind a dash.
fn parse(text: &[u8]) -> Option<(u128, u64, bool)> {
    let text = std::str::from_utf8(text).ok()?;
    let (head, rest) = text.split_at_checked(55)?;
    let mut parts = head.split('-');
    let mut next = |digits: usize| {
        let part = parts.next()?;
        let is_hex = part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (part.len() == digits && is_hex).then_some(part)
    };
    let (version, id, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
    let is_known = version == "00" && rest.is_empty();
    let is_later = version != "00" && version != "ff" && (rest.is_empty() || rest.starts_with('-'));
    if !is_known && !is_later {
        return None;
    }
    let id = u128::from_str_radix(id, 16).ok().filter(|&id| id != 0)?;
    let span = u64::from_str_radix(span, 16).ok().filter(|&span| span != 0)?;
    Some((id, span, u8::from_str_radix(flags, 16).ok()? & 1 == 1))
}

/// Splitmix64: another number for each, spread over all, and never 0.
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_well_formed() {
        let check = |text: &str, want: Option<bool>| {
            assert_eq!(parse(text.as_bytes()).map(|(.., sampled)| sampled), want, "{text}");
        };
        check(GOOD, Some(true));
        check(&GOOD.replace("-01", "-00"), Some(false));
        check(&GOOD.replace("00-4", "cc-4"), Some(true));
        check(&(GOOD.replace("00-4", "cc-4") + "-more"), Some(true));
        check(&(GOOD.to_owned() + "-more"), None);
        check(&GOOD.replace("00-4", "ff-4"), None);
        check(&GOOD.to_uppercase(), None);
        check(&GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)), None);
        check(&GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)), None);
        check("", None);
    }

    #[test]
    fn the_clients_trace_goes_on() {
        let headers = |text: &str| {
            HeaderMap::from_iter([(PARENT, text.parse().unwrap()), (STATE, "a=b".parse().unwrap())])
        };
        let told = |exports| {
            let trace = Trace::of(&headers(GOOD), None, 7).unwrap();
            let mut told = HeaderMap::new();
            trace.tell(&mut told, trace.attempt(1), exports);
            assert_eq!(told[STATE], "a=b");
            told[PARENT].to_str().unwrap().to_owned()
        };
        assert_eq!(told(false), GOOD, "as it came");
        assert!(told(true).starts_with(&GOOD[..36]) && told(true).ends_with("-01") && told(true) != GOOD);
        assert_eq!(Trace::of(&headers("nonsense"), None, 7), None);
        let sampled =
            (0..1000).filter(|&seed| Trace::of(&HeaderMap::new(), Some(0.25), seed).unwrap().sampled);
        assert!((200..300).contains(&sampled.count()));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            parse(&bytes);
        }
    }
}
