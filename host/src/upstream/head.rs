//! The head of an answer, and what it says of the body.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// Bytes of a head; a longer one is refused.
pub(super) const HEAD_LIMIT: usize = 64 << 10;
/// Fields of a head; more are refused.
const FIELDS: usize = 128;

#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) length: Length,
    /// Another request may follow on the connection.
    pub(super) stays_open: bool,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Exact(u64),
    Chunked,
    /// With the connection.
    UntilClose,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHead {
    #[error("its head is longer than {HEAD_LIMIT} bytes")]
    TooLong,
    #[error("its head is no HTTP: {0}")]
    Malformed(httparse::Error),
    #[error("its head has a {0} that cannot be")]
    Field(&'static str),
}

/// The head with its length in bytes; `None` where it is not whole yet.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, BadHead> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let size = match response.parse(bytes).map_err(BadHead::Malformed)? {
        httparse::Status::Complete(size) => size,
        httparse::Status::Partial if bytes.len() >= HEAD_LIMIT => return Err(BadHead::TooLong),
        httparse::Status::Partial => return Ok(None),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(BadHead::Field("status"))?;
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadHead::Field("name"))?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| BadHead::Field("value"))?;
        headers.append(name, value);
    }
    let (length, is_doubtful) = length(status, &headers)?;
    let keeps = match response.version {
        Some(1) => !says(&headers, header::CONNECTION, "close"),
        _ => says(&headers, header::CONNECTION, "keep-alive"),
    };
    let stays_open = keeps && !is_doubtful && length != Length::UntilClose;
    Ok(Some((Head { status, headers, length, stays_open }, size)))
}

/// With whether the fields contradict each other, so that the connection is better not used again
/// (RFC 9112, 6.3).
fn length(status: StatusCode, headers: &HeaderMap) -> Result<(Length, bool), BadHead> {
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) || status.is_informational() {
        return Ok((Length::Exact(0), false));
    }
    let mut exact = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        let text = value.to_str().map_err(|_| BadHead::Field("content-length"))?;
        for one in text.split(',').map(str::trim) {
            let digits = !one.is_empty() && one.bytes().all(|b| b.is_ascii_digit());
            let one: u64 = one.parse().ok().filter(|_| digits).ok_or(BadHead::Field("content-length"))?;
            if exact.is_some_and(|other| other != one) {
                return Err(BadHead::Field("content-length"));
            }
            exact = Some(one);
        }
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        let last = headers.get_all(header::TRANSFER_ENCODING).iter().next_back();
        let last = last.and_then(|value| value.to_str().ok()?.rsplit(',').next()).unwrap_or_default();
        let is_chunked = last.trim().eq_ignore_ascii_case("chunked");
        return Ok((if is_chunked { Length::Chunked } else { Length::UntilClose }, exact.is_some()));
    }
    Ok((exact.map_or(Length::UntilClose, Length::Exact), false))
}

/// A list of words has this one.
fn says(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    let lists = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|one| one.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(fields: &str) -> Result<(Length, bool), BadHead> {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        parse(text.as_bytes()).map(|head| head.map(|(head, _)| (head.length, head.stays_open)).unwrap())
    }

    #[test]
    fn how_a_body_ends() {
        let ok = |fields: &str, length, open| assert_eq!(of(fields), Ok((length, open)), "{fields:?}");
        ok("content-length: 5\r\n", Length::Exact(5), true);
        ok("content-length: 5\r\ncontent-length: 5\r\n", Length::Exact(5), true);
        ok("content-length: 5, 5\r\n", Length::Exact(5), true);
        ok("transfer-encoding: chunked\r\n", Length::Chunked, true);
        ok("transfer-encoding: gzip, Chunked\r\n", Length::Chunked, true);
        ok("transfer-encoding: chunked\r\ncontent-length: 5\r\n", Length::Chunked, false);
        ok("transfer-encoding: gzip\r\n", Length::UntilClose, false);
        ok("", Length::UntilClose, false);
        ok("content-length: 5\r\nconnection: x, Close\r\n", Length::Exact(5), false);
        for bad in
            ["content-length: 5\r\ncontent-length: 6\r\n", "content-length: +5\r\n", "content-length: \r\n"]
        {
            assert_eq!(of(bad), Err(BadHead::Field("content-length")), "{bad:?}");
        }
        let old = parse(b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n").unwrap().unwrap().0;
        assert!(!old.stays_open);
        let none = parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap().0;
        assert_eq!((none.length, none.stays_open), (Length::Exact(0), true));
    }

    #[test]
    fn what_is_no_head() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nx: ").unwrap().is_none());
        assert!(matches!(parse(b"SSH-2.0-OpenSSH_9.2\r\n"), Err(BadHead::Malformed(_))));
        assert!(matches!(parse(b"HTTP/1.1 200 OK\r\n x: folded\r\n\r\n"), Err(BadHead::Malformed(_))));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(FIELDS + 1));
        assert!(matches!(parse(many.as_bytes()), Err(BadHead::Malformed(httparse::Error::TooManyHeaders))));
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(HEAD_LIMIT));
        assert_eq!(parse(long.as_bytes()).unwrap_err(), BadHead::TooLong);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_head_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _no_panic = parse(&bytes);
            let _no_panic = parse(&[b"HTTP/1.1 200 OK\r\n", &bytes[..], b"\r\n\r\n"].concat());
        }
    }
}
