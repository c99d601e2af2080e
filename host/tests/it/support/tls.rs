//! Certificates, and connections that look at them.

use crate::support::node::spawn;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

/// PEM: the certificate, which signs itself, and its key.
pub struct Certificate {
    pub pem: String,
    pub key: String,
}

impl Certificate {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".into(), "127.0.0.1".into()]).unwrap();
        Self { pem: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.pem.as_bytes()).collect::<Result<_, _>>().unwrap()
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A door with TLS in front of `behind`; returns its address.
pub async fn in_front_of(behind: SocketAddr, certificate: &Certificate) -> SocketAddr {
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificate.chain(), key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut node = TcpStream::connect(behind).await.unwrap();
                let _either_left = tokio::io::copy_bidirectional(&mut stream, &mut node).await;
            });
        }
    });
    address
}

/// One client, which trusts that certificate alone, on one connection of HTTP/2.
pub struct Http2 {
    sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    address: SocketAddr,
}

impl Http2 {
    /// `None` where the other side shows another certificate.
    pub async fn connect(address: SocketAddr, trusted: &Certificate) -> Option<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(trusted.chain());
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        spawn(async move {
            let _gateway_left = connection.await;
        });
        Some(Self { sender, address })
    }

    /// Status and body.
    pub async fn ask(&mut self, method: &str, path: &str, body: String) -> (u16, String) {
        let request = http::Request::builder().method(method).uri(format!("https://{}{path}", self.address));
        let answer = self.sender.send_request(request.body(Full::from(body)).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}
