//! Where a node is and how it is spoken to.

use super::UpstreamError;
use super::http2::Shared;
use super::pool::Pool;
use super::tls;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use rustls::pki_types::ServerName;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes of a body that are copied behind the head, so that both are written at once.
pub(super) const WITH_HEAD: usize = 16 << 10;

/// How a node is reached, and as whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// `http://HOST:PORT` or `https://HOST:PORT`, with a path that goes before every request's where it has one, or
    /// `unix:/PATH`.
    pub endpoint: String,
    /// Sent as a bearer token, or in `token_header`.
    pub token: Option<String>,
    /// The header that holds the token, as it is.
    pub token_header: Option<String>,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
    /// Certificates that are trusted in the place of the system's, PEM.
    pub ca: Option<String>,
    /// HTTP/2, without asking first where there is no TLS.
    pub http2: bool,
}

/// Where requests go, and as whom.
#[derive(Debug, Clone)]
pub struct Peer {
    /// As it is configured.
    pub endpoint: String,
    pub(super) address: Address,
    /// Before every path; no slash at its end.
    base: String,
    /// `host: …`, `authorization: …` and what else is sent with every request.
    fields: Arc<[u8]>,
    /// The same but for the host.
    pub(super) own: HeaderMap,
    authority: String,
    pub(super) pool: Arc<Pool>,
    pub(super) http2: Option<Arc<Shared>>,
}

#[derive(Debug, Clone)]
pub(super) enum Address {
    Tcp { host: String, port: u16, tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)> },
    Unix(PathBuf),
}

/// An endpoint that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPeer {
    #[error("{0:?}, expected http://HOST:PORT, https://HOST:PORT or unix:/PATH")]
    Endpoint(String),
    #[error("its token cannot be sent in a header")]
    Token,
    #[error("{0:?} cannot be sent")]
    Header(String),
    #[error("{0}")]
    Ca(String),
}

impl BadPeer {
    /// The key of cortex.toml that is to be mended.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Endpoint(_) => "endpoint",
            Self::Token => "token_env",
            Self::Header(_) => "headers",
            Self::Ca(_) => "ca_file",
        }
    }
}

/// What this client writes by itself.
const OWN: [HeaderName; 5] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::CONTENT_TYPE,
];

impl Peer {
    /// With the system's certificates and no headers of its own.
    pub fn new(endpoint: &str, token: Option<&str>) -> Result<Self, BadPeer> {
        let (endpoint, token) = (endpoint.to_owned(), token.map(str::to_owned));
        Self::open(&Access { endpoint, token, ..Access::default() })
    }

    /// Errors name what of it cannot be.
    pub fn open(access: &Access) -> Result<Self, BadPeer> {
        let (address, authority, base) = match access.endpoint.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => {
                (Address::Unix(path.into()), "localhost".to_owned(), String::new())
            }
            _ => tcp(access)?,
        };
        let mut own = HeaderMap::new();
        if let Some(token) = &access.token {
            let (name, value) = match &access.token_header {
                None => (header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}"))),
                Some(name) => {
                    let known = HeaderName::try_from(name).ok().filter(|name| !OWN.contains(name));
                    (known.ok_or_else(|| BadPeer::Header(name.clone()))?, HeaderValue::try_from(token))
                }
            };
            own.insert(name, value.map_err(|_| BadPeer::Token)?);
        }
        for (name, value) in &access.headers {
            let bad = || BadPeer::Header(name.clone());
            let key = HeaderName::try_from(name).ok().filter(|key| !OWN.contains(key)).ok_or_else(bad)?;
            let value = HeaderValue::try_from(value).map_err(|_| bad())?;
            own.insert(key, value);
        }
        let mut fields = format!("host: {authority}\r\n").into_bytes();
        for (name, value) in &own {
            fields.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        let endpoint = access.endpoint.clone();
        let (fields, http2) = (fields.into(), access.http2.then(Arc::default));
        Ok(Self { endpoint, address, base, fields, own, authority, pool: Arc::default(), http2 })
    }

    /// Whether it sends the header with every request.
    pub fn sends(&self, name: &HeaderName) -> bool {
        self.own.contains_key(name)
    }

    /// Paths are asked for under one of its own.
    pub fn has_base(&self) -> bool {
        !self.base.is_empty()
    }

    /// As HTTP/2 names what is asked for.
    pub(super) fn uri(&self, path: &str) -> Result<Uri, UpstreamError> {
        let scheme = if matches!(self.address, Address::Tcp { tls: Some(_), .. }) { "https" } else { "http" };
        let uri = format!("{scheme}://{}{}{path}", self.authority, self.base).parse();
        uri.map_err(|e| UpstreamError::Malformed(format!("{path:?}: {e}")))
    }

    /// The request's head, with room behind it for a small body.
    pub(super) fn head(&self, method: &Method, path: &str, headers: &HeaderMap, length: usize) -> Vec<u8> {
        let mut head = Vec::with_capacity(256 + self.fields.len() + path.len() + length.min(WITH_HEAD));
        for part in [method.as_str(), " ", &self.base, path, " HTTP/1.1\r\n"] {
            head.extend_from_slice(part.as_bytes());
        }
        head.extend_from_slice(&self.fields);
        for (name, value) in headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
        head.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes());
        head
    }
}

/// Address, authority and base path.
fn tcp(access: &Access) -> Result<(Address, String, String), BadPeer> {
    let bad = || BadPeer::Endpoint(access.endpoint.clone());
    let uri: Uri = access.endpoint.parse().map_err(|_| bad())?;
    let port = match uri.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return Err(bad()),
    };
    // Names and passwords in an address would go to the node in its `host`.
    let authority = uri.authority().filter(|a| uri.query().is_none() && !a.as_str().contains('@'));
    let authority = authority.ok_or_else(bad)?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let tls = match port {
        443 => {
            let name = ServerName::try_from(host.clone()).map_err(|_| bad())?;
            Some((tls::client(access.ca.as_deref(), access.http2).map_err(BadPeer::Ca)?, name))
        }
        _ => None,
    };
    let base = uri.path().trim_end_matches('/').to_owned();
    let port = authority.port_u16().unwrap_or(port);
    Ok((Address::Tcp { host, port, tls }, authority.to_string(), base))
}
