//! TLS to nodes.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::sync::{Arc, OnceLock};

/// `ca`: certificates in PEM that are trusted; without them the system's. The error is for people.
pub(super) fn client(ca: Option<&str>, http2: bool) -> Result<Arc<ClientConfig>, String> {
    static SYSTEM: [OnceLock<Arc<ClientConfig>>; 2] = [const { OnceLock::new() }; 2];
    let known = &SYSTEM[usize::from(http2)];
    let mut roots = RootCertStore::empty();
    let Some(pem) = ca else {
        if let Some(known) = known.get() {
            return Ok(known.clone());
        }
        // Files of the system that cannot be read leave out what stands in them; with none at all every node is
        // refused when it is asked.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let config = Arc::new(config(roots, http2)?);
        return Ok(known.get_or_init(|| config).clone());
    };
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|e| format!("it is not PEM: {e}"))?;
        roots.add(certificate).map_err(|e| format!("a certificate of it cannot be used: {e}"))?;
    }
    match roots.is_empty() {
        true => Err("there is no certificate in it".to_owned()),
        false => config(roots, http2).map(Arc::new),
    }
}

fn config(roots: RootCertStore, http2: bool) -> Result<ClientConfig, String> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(config)
}
