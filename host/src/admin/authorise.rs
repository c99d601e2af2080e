//! Who may use the admin address, and for what.

use super::attempts::Attempts;
use super::{From, Refused};
use crate::config::{AdminKey, Config, Role, digest};
use crate::gateway::Gateway;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// With `[[admin_keys]]`, one of them that has the role. Without, programs on this machine and the console in its
/// browsers, and no other pages: those bear another origin, or ask for this address under a name of their own.
pub(super) async fn authorise(
    State((gateway, role)): State<(Arc<Gateway>, Option<Role>)>,
    mut request: Request,
    next: Next,
) -> Response {
    let from = request.extensions().get::<From>().map(|from| from.0);
    let allowed = check(&gateway, role, from, request.uri(), request.headers());
    match allowed {
        Ok(operator) => {
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        Err(refused) => refused.into_response(),
    }
}

/// Who passed.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    /// `None`: somebody on this machine, where there are no keys.
    pub(crate) key: Option<Arc<AdminKey>>,
    digest: Option<[u8; 32]>,
}

impl Operator {
    /// Whether what let them in is still so.
    pub(crate) fn is_still(&self, config: &Config, role: Role) -> bool {
        match &self.digest {
            None => config.admin_keys.is_empty(),
            Some(digest) => config.admin_keys.of_digest(digest).is_some_and(|key| key.may(role)),
        }
    }

    pub(crate) fn may(&self, role: Role) -> bool {
        self.key.as_ref().is_none_or(|key| key.may(role))
    }
}

/// `role`: `None` where any will do.
fn check(
    gateway: &Gateway,
    role: Option<Role>,
    from: Option<IpAddr>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Operator, Refused> {
    let config = gateway.config.load();
    if !is_same_origin(uri, headers) {
        let message = "requests of other sites' pages are not taken here";
        return Err(Refused(StatusCode::FORBIDDEN, message.into()));
    }
    match config.admin_keys.is_empty() {
        true => nearby(from, uri, headers),
        false => by_key(&config, &gateway.wrong_keys, role, from, headers),
    }
}

fn by_key(
    config: &Config,
    wrong: &Attempts,
    role: Option<Role>,
    from: Option<IpAddr>,
    headers: &HeaderMap,
) -> Result<Operator, Refused> {
    let Some(key) = crate::request::presented_key(headers) else {
        let message =
            "an admin key is needed: Authorization: Bearer KEY (cortex takes it from CORTEX_ADMIN_KEY)";
        return Err(Refused(StatusCode::UNAUTHORIZED, message.into()));
    };
    let digest = digest(key);
    // Whoever guesses is not told whether this one was right; whoever was right before is not kept out by others.
    if let Some(wait) = from.and_then(|from| wrong.must_wait(from, &digest)) {
        return Err(Refused::for_now(wait, "too many wrong admin keys came from this address"));
    }
    let Some(key) = config.admin_keys.of_digest(&digest) else {
        from.inspect(|from| wrong.note(*from));
        return Err(Refused(StatusCode::UNAUTHORIZED, "this admin key is not known here".into()));
    };
    match role {
        Some(role) if !key.may(role) => {
            let message = format!("the admin key {} does not have the role {}", key.name, role.name());
            Err(Refused(StatusCode::FORBIDDEN, message))
        }
        _ => {
            from.inspect(|from| wrong.was_right(*from, digest));
            Ok(Operator { key: Some(key.clone()), digest: Some(digest) })
        }
    }
}

fn nearby(from: Option<IpAddr>, uri: &Uri, headers: &HeaderMap) -> Result<Operator, Refused> {
    if !from.is_some_and(|from| from.to_canonical().is_loopback()) {
        let message = "without [[admin_keys]] in cortex.toml only programs on this machine are served here";
        return Err(Refused(StatusCode::UNAUTHORIZED, message.into()));
    }
    // Of whom it was sent on for nothing is known.
    const PASSED_ON: [&str; 5] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];
    if PASSED_ON.iter().any(|name| headers.contains_key(*name)) {
        let message =
            "a proxy has sent this on, and without [[admin_keys]] only programs on this machine are served";
        return Err(Refused(StatusCode::UNAUTHORIZED, message.into()));
    }
    let host = asked_host(uri, headers);
    match is_own_name(host) {
        true => Ok(Operator { key: None, digest: None }),
        false => {
            let message = format!(
                "{host:?} is not this machine's address: ask for localhost or an IP address, or use [[admin_keys]]"
            );
            Err(Refused(StatusCode::FORBIDDEN, message))
        }
    }
}

fn asked_host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    uri.authority().map(|authority| authority.as_str()).or(host).unwrap_or_default()
}

/// Programs say nothing of an origin; browsers say it of all that changes something, and newer ones of every request.
fn is_same_origin(uri: &Uri, headers: &HeaderMap) -> bool {
    if headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none") {
        return false;
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let host = asked_host(uri, headers);
    !host.is_empty() && origin.is_some_and(|(_, from)| from.eq_ignore_ascii_case(host))
}

/// A name that nobody else can make point here: a page's own name may, whatever the page is.
fn is_own_name(host: &str) -> bool {
    // A port follows, but for the colons of IPv6.
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) if port.is_empty() || port.starts_with(':') => name,
            _ => return false,
        },
        None if host.matches(':').count() > 1 => host,
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_keys_only_this_machine_is_served_by_its_own_name() {
        let check = |from: &str, header: (&'static str, &'static str), want: Option<u16>| {
            let headers: HeaderMap =
                [(header.0.parse().unwrap(), header.1.parse().unwrap())].into_iter().collect();
            let from = Some(from.parse().unwrap());
            let got = nearby(from, &Uri::from_static("/admin/status"), &headers);
            assert_eq!(got.err().map(|refused| refused.0.as_u16()), want, "{from:?} {header:?}");
        };
        check("127.0.0.1", ("host", "localhost:31315"), None);
        check("::ffff:127.0.0.1", ("host", "127.0.0.1"), None);
        check("10.0.0.7", ("host", "10.0.0.1:31315"), Some(401));
        check("127.0.0.1", ("host", "rebound.example"), Some(403));
        check("127.0.0.1", ("x-other", "x"), Some(403));
        check("127.0.0.1", ("x-forwarded-for", "10.0.0.7"), Some(401));
        check("127.0.0.1", ("via", "1.1 proxy"), Some(401));
    }

    #[test]
    fn pages_of_other_sites_are_told_apart() {
        let check = |headers: &[(&'static str, &'static str)], same| {
            let map = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let map: HeaderMap = map.collect();
            assert_eq!(is_same_origin(&Uri::from_static("/admin/load"), &map), same, "{headers:?}");
        };
        check(&[("host", "gpu:31315")], true);
        check(&[("host", "gpu:31315"), ("origin", "http://gpu:31315")], true);
        check(
            &[("host", "gpu:31315"), ("origin", "https://GPU:31315"), ("sec-fetch-site", "same-origin")],
            true,
        );
        check(&[("host", "gpu:31315"), ("sec-fetch-site", "none")], true);
        check(&[("host", "gpu:31315"), ("origin", "http://gpu:31313")], false);
        check(&[("host", "gpu:31315"), ("origin", "http://evil.example")], false);
        check(&[("host", "gpu:31315"), ("origin", "null")], false);
        check(&[("origin", "http://")], false);
        check(&[("host", "gpu:31315"), ("sec-fetch-site", "same-site")], false);
        check(&[("host", "gpu:31315"), ("sec-fetch-site", "cross-site")], false);
    }

    #[test]
    fn names_that_others_cannot_have() {
        let check = |host: &str, own| assert_eq!(is_own_name(host), own, "{host}");
        check("localhost:31315", true);
        check("LOCALHOST", true);
        check("127.0.0.1:31315", true);
        check("[::1]:31315", true);
        check("::1", true);
        check("", false);
        check("localhost.evil.example", false);
        check("127.0.0.1.evil.example:80", false);
        check("[::1].evil", false);
    }
}
