//! Who is calling, and whether they may.

use crate::config::{Config, Key};
use crate::refusal::Refusal;
use http::{HeaderMap, StatusCode, header};
use std::net::IpAddr;
use std::sync::Arc;

/// With keys, one of them is needed. Without, loopback and private networks are served, by a key without a name
/// that may have everything.
pub(super) fn authenticate(config: &Config, from: IpAddr, headers: &HeaderMap) -> Result<Arc<Key>, Refusal> {
    let refuse = |message: &str| Err(Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message));
    if config.keys.is_empty() {
        if config.allow_anonymous || is_near(from) {
            return Ok(Arc::default());
        }
        return refuse(
            "this gateway has no keys yet and serves only its own network; the operator can add [[keys]]",
        );
    }
    let Some(key) = presented(headers) else {
        return refuse("a key is needed: Authorization: Bearer KEY, or x-api-key: KEY");
    };
    match config.keys.of(key) {
        Some(key) => Ok(key.clone()),
        None => refuse("this key is not known here"),
    }
}

/// Where clients put their keys besides: Anthropic's, Google's, Azure's.
pub(crate) const KEY_HEADERS: [&str; 3] = ["x-api-key", "x-goog-api-key", "api-key"];

/// OpenAI's clients send a bearer token, Anthropic's either that or x-api-key.
pub(crate) fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).map(|v| v.as_bytes());
    let bearer = bearer.and_then(|v| v.strip_prefix(b"Bearer ").or(v.strip_prefix(b"bearer ")));
    bearer.or_else(|| KEY_HEADERS.iter().find_map(|name| headers.get(*name)).map(|v| v.as_bytes()))
}

/// Loopback, private and link-local addresses, also where IPv6 carries IPv4.
fn is_near(from: IpAddr) -> bool {
    match from.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_and_far() {
        let check = |ip: &str, near| assert_eq!(is_near(ip.parse().unwrap()), near, "{ip}");
        check("127.0.0.1", true);
        check("10.1.2.3", true);
        check("192.168.0.9", true);
        check("8.8.8.8", false);
        check("::1", true);
        check("::ffff:10.0.0.1", true);
        check("::ffff:8.8.8.8", false);
        check("fd00::1", true);
        check("2001:db8::1", false);
    }

    #[test]
    fn keys_come_in_either_header() {
        let check = |name: &'static str, value: &'static str, want: Option<&[u8]>| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(presented(&headers), want, "{name}: {value}");
        };
        check("authorization", "Bearer k", Some(b"k"));
        check("x-api-key", "k", Some(b"k"));
        check("x-goog-api-key", "k", Some(b"k"));
        check("api-key", "k", Some(b"k"));
        check("authorization", "Basic k", None);
    }
}
