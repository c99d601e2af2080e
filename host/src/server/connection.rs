//! From a connection that was taken to requests.

use crate::gateway::Gateway;
use crate::net::Stream;
use http::{HeaderValue, Request, Response, Version, header};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// A client that opened a connection has this long to send its request's head, and before that to agree on TLS.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// Who has connected before the end gets this long to send a first request; it would otherwise be lost with the
/// connection.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// What a listener's requests get.
pub(super) trait Site: Clone + Send + Sync + 'static {
    type Body: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;

    fn answer(
        self,
        from: IpAddr,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Serves the connection in a task of its own. `tls`: the certificate that is shown from now on.
pub(super) fn serve(
    gateway: &Arc<Gateway>,
    (stream, from): (Stream, IpAddr),
    tls: Option<Arc<rustls::ServerConfig>>,
    site: impl Site,
) {
    let gateway = gateway.clone();
    gateway.tasks.clone().spawn(async move {
        let stream = match secured(&gateway, stream, tls).await {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%from, %error, "no TLS was agreed on"),
        };
        if let Err(error) = requests(&gateway, stream, from, site).await {
            tracing::debug!(%from, error, "a connection broke");
        }
    });
}

async fn requests(
    gateway: &Arc<Gateway>,
    stream: Stream,
    from: IpAddr,
    site: impl Site,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let first = Arc::new(Notify::new());
    let service = {
        let (gateway, first) = (gateway.clone(), first.clone());
        service_fn(move |request: Request<Incoming>| {
            first.notify_one();
            let (site, gateway, version) = (site.clone(), gateway.clone(), request.version());
            async move {
                let mut answer = site.answer(from, request).await;
                // Who keeps connections is told before this one is closed under a request on its way.
                if gateway.is_leaving() && version < Version::HTTP_2 {
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service).into_owned());
    let (accepted, mut begun) = (Instant::now(), false);
    loop {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = gateway.shutdown.cancelled() => break,
            () = first.notified(), if !begun => begun = true,
            // Before it is known which HTTP it speaks, nobody else looks at the clock.
            () = tokio::time::sleep_until(accepted + HEAD_LIMIT), if !begun => return Ok(()),
        }
    }
    // A first request may be on its way already; one that has come is finished below.
    if !begun {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = first.notified() => {}
            () = tokio::time::sleep_until(accepted + FIRST_REQUEST) => {}
        }
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

async fn secured(
    gateway: &Gateway,
    stream: Stream,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> io::Result<Stream> {
    // What goes through a Unix socket stays on this machine.
    let (stream, config) = match (stream, tls) {
        (Stream::Tcp(stream), Some(config)) => (stream, config),
        (stream, _) => return Ok(stream),
    };
    let ending = async {
        gateway.shutdown.cancelled().await;
        tokio::time::sleep(FIRST_REQUEST).await;
    };
    tokio::select! {
        shaken = tokio::time::timeout(HEAD_LIMIT, TlsAcceptor::from(config).accept(stream)) => {
            Ok(Stream::Tls(Box::new(shaken.map_err(|_| io::ErrorKind::TimedOut)??.into())))
        }
        () = ending => Err(io::ErrorKind::TimedOut.into()),
    }
}
