//! One file's bytes, all or some of them.

use std::{io::SeekFrom, ops::Range};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::models::Item;

/// Bytes that are read at a time.
const READ: usize = 1 << 20;

/// What `Range` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    /// Nothing of it is there.
    Unsatisfiable,
}

/// RFC 9110, section 14. What is not understood, and several ranges at once, are the whole.
fn asked(headers: &HeaderMap, etag: &str, size: u64) -> Asked {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|wanted| wanted != etag) {
        return Asked::Whole;
    }
    let Some(range) = text(header::RANGE).and_then(|range| range.strip_prefix("bytes=")) else {
        return Asked::Whole;
    };
    let Some((from, to)) = range.trim().split_once('-') else { return Asked::Whole };
    let range = match (from.parse::<u64>(), to.parse::<u64>()) {
        (Ok(from), Ok(to)) if from <= to => from..to.saturating_add(1).min(size),
        (Ok(from), Err(_)) if to.is_empty() => from..size,
        (Err(_), Ok(last)) if from.is_empty() => size.saturating_sub(last)..size,
        _ => return Asked::Whole,
    };
    if range.start >= range.end { Asked::Unsatisfiable } else { Asked::Part(range) }
}

/// `etag`: without quotes. `commit`: the one that the file is of.
pub(super) async fn send(
    method: &Method,
    headers: &HeaderMap,
    item: &Item,
    etag: &str,
    commit: &str,
) -> Response {
    let quoted = format!("\"{etag}\"");
    let mut fields = HeaderMap::new();
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            fields.insert(name, value);
        }
    };
    set(header::ETAG, &quoted);
    set(header::ACCEPT_RANGES, "bytes");
    set(header::CONTENT_TYPE, "application/octet-stream");
    set(HeaderName::from_static("x-repo-commit"), commit);
    set(HeaderName::from_static("x-linked-etag"), &quoted);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if known.is_some_and(|known| known == "*" || known.split(',').any(|one| one.trim() == quoted)) {
        return (StatusCode::NOT_MODIFIED, fields).into_response();
    }
    let (status, range) = match asked(headers, &quoted, item.size) {
        Asked::Whole => (StatusCode::OK, 0..item.size),
        Asked::Part(range) => {
            let (start, last, size) = (range.start, range.end - 1, item.size);
            set(header::CONTENT_RANGE, &format!("bytes {start}-{last}/{size}"));
            (StatusCode::PARTIAL_CONTENT, range)
        }
        Asked::Unsatisfiable => {
            set(header::CONTENT_RANGE, &format!("bytes */{}", item.size));
            return (StatusCode::RANGE_NOT_SATISFIABLE, fields).into_response();
        }
    };
    set(header::CONTENT_LENGTH, &(range.end - range.start).to_string());
    if method == Method::HEAD {
        return (status, fields).into_response();
    }
    let opened = async {
        let mut file = tokio::fs::File::open(&item.path).await?;
        file.seek(SeekFrom::Start(range.start)).await?;
        file.set_max_buf_size(READ);
        Ok::<_, std::io::Error>(file.take(range.end - range.start))
    };
    match opened.await {
        Ok(part) => {
            (status, fields, Body::from_stream(ReaderStream::with_capacity(part, READ))).into_response()
        }
        Err(error) => {
            tracing::warn!(path = %item.path.display(), %error, "a file cannot be read");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        let check = |range: &str, expected: Asked| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_str(range).unwrap());
            assert_eq!(asked(&headers, "\"e\"", 100), expected, "{range}");
        };
        check("bytes=0-9", Asked::Part(0..10));
        check("bytes=90-", Asked::Part(90..100));
        check("bytes=-10", Asked::Part(90..100));
        check("bytes=-1000", Asked::Part(0..100));
        check("bytes=99-1000", Asked::Part(99..100));
        check("bytes=100-", Asked::Unsatisfiable);
        check("bytes=-0", Asked::Unsatisfiable);
        for whole in ["bytes=5-4", "bytes=a-b", "bytes=0-1,3-4", "lines=0-1", "bytes=", "bytes=-"] {
            check(whole, Asked::Whole);
        }
        check("bytes=18446744073709551615-", Asked::Unsatisfiable);
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-9"));
        headers.insert(header::IF_RANGE, HeaderValue::from_static("\"other\""));
        assert_eq!(asked(&headers, "\"e\"", 100), Asked::Whole);
    }
}
