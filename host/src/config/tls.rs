//! The certificate that clients see.

use super::node::Outside;
use super::raw;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Certificate and key, ready for connections. Two are equal where their files are.
#[derive(Clone)]
pub struct Tls {
    pub server: Arc<ServerConfig>,
    /// Also on the admin address.
    pub admin: bool,
    /// Also on the metrics' address.
    pub metrics: bool,
    pem: [String; 2],
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        (self.admin, self.metrics, &self.pem) == (other.admin, other.metrics, &other.pem)
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is nobody's to see.
        f.debug_struct("Tls")
            .field("admin", &self.admin)
            .field("metrics", &self.metrics)
            .finish_non_exhaustive()
    }
}

/// Its files are added to `files`. Errors are for people and name the key of cortex.toml.
pub(super) fn load(raw: &raw::Tls, outside: &Outside<'_>, files: &mut Vec<PathBuf>) -> Result<Tls, String> {
    let certificate = outside.text("gateway.tls.certificate", &raw.certificate, files)?;
    let key = outside.text("gateway.tls.key", &raw.key, files)?;
    let says = |key: &str, said: &dyn fmt::Display| format!("gateway.tls.{key}: {said}");
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
    let chain = chain.map_err(|e| says("certificate", &format!("it is not PEM: {e}")))?;
    if chain.is_empty() {
        return Err(says("certificate", &"there is no certificate in it"));
    }
    let private = PrivateKeyDer::from_pem_slice(key.as_bytes());
    let private = private.map_err(|e| says("key", &format!("there is no private key in PEM in it: {e}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| says("certificate", &e))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        // Most often the key of another certificate.
        .map_err(|e| says("key", &format!("it does not go with the certificate: {e}")))?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Tls { server: Arc::new(server), admin: raw.admin, metrics: raw.metrics, pem: [certificate, key] })
}
