//! Who may use the admin address, and for what.

use super::{From, Refused};
use crate::config::{Config, Role};
use crate::gateway::Gateway;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// With `[[admin_keys]]`, one of them that has the role. Without, programs on this machine, and no pages that its
/// browsers show: those bear their origin, or ask for this address under a name of their own.
pub(super) async fn authorise(
    State((gateway, role)): State<(Arc<Gateway>, Role)>,
    request: Request,
    next: Next,
) -> Response {
    let from = request.extensions().get::<From>().map(|from| from.0);
    let allowed = check(&gateway.config.load(), role, from, request.uri(), request.headers());
    match allowed {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

fn check(
    config: &Config,
    role: Role,
    from: Option<IpAddr>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), Refused> {
    let refuse = |status, message: String| Err(Refused(status, message));
    if headers.contains_key(header::ORIGIN) {
        return refuse(StatusCode::FORBIDDEN, "requests of web pages are not taken here".into());
    }
    if !config.admin_keys.is_empty() {
        let Some(key) = crate::request::presented_key(headers) else {
            let message =
                "an admin key is needed: Authorization: Bearer KEY (cortex takes it from CORTEX_ADMIN_KEY)";
            return refuse(StatusCode::UNAUTHORIZED, message.into());
        };
        return match config.admin_keys.of(key) {
            Some(key) if key.may(role) => Ok(()),
            Some(key) => {
                let message = format!("the admin key {} does not have the role {}", key.name, role.name());
                refuse(StatusCode::FORBIDDEN, message)
            }
            None => refuse(StatusCode::UNAUTHORIZED, "this admin key is not known here".into()),
        };
    }
    if !from.is_some_and(|from| from.to_canonical().is_loopback()) {
        let message = "without [[admin_keys]] in cortex.toml only programs on this machine are served here";
        return refuse(StatusCode::UNAUTHORIZED, message.into());
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = uri.host().or(host).unwrap_or_default();
    match is_own_name(host) {
        true => Ok(()),
        false => refuse(
            StatusCode::FORBIDDEN,
            format!(
                "{host:?} is not this machine's address: ask for localhost or an IP address, or use [[admin_keys]]"
            ),
        ),
    }
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
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cortex.toml"), "[gateway]\n").unwrap();
        let config = Config::load(&dir.path().join("cortex.toml")).unwrap();
        let check = |from: &str, header: (&'static str, &'static str), want: Option<u16>| {
            let headers: HeaderMap =
                [(header.0.parse().unwrap(), header.1.parse().unwrap())].into_iter().collect();
            let from = Some(from.parse().unwrap());
            let got = check(&config, Role::Operator, from, &Uri::from_static("/admin/status"), &headers);
            assert_eq!(got.err().map(|refused| refused.0.as_u16()), want, "{from:?} {header:?}");
        };
        check("127.0.0.1", ("host", "localhost:31315"), None);
        check("::ffff:127.0.0.1", ("host", "127.0.0.1"), None);
        check("10.0.0.7", ("host", "10.0.0.1:31315"), Some(401));
        check("127.0.0.1", ("host", "rebound.example"), Some(403));
        check("127.0.0.1", ("origin", "http://localhost"), Some(403));
        check("127.0.0.1", ("x-other", "x"), Some(403));
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
