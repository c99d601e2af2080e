//! Connections to one node that wait for the next request.

use super::CONNECT;
use super::peer::Address;
use crate::net::Stream;
use std::future::Future;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// A connection that was silent for this long is asked whether its other end is still there, and again
/// this often; a host that lost its power is found out even in the middle of an answer.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Below the idle time-out of the servers that nodes run, so a request seldom meets a closing connection.
const IDLE: Duration = Duration::from_secs(50);
/// Idle connections that are kept; past it the oldest goes.
const IDLE_CONNECTIONS: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<(Stream, Instant)>>,
}

impl Pool {
    /// The one that was used last, if its other end has not closed it meanwhile.
    pub(super) fn take(&self) -> Option<Stream> {
        let mut idle = self.lock();
        let fresh = idle.iter().position(|(_, since)| since.elapsed() < IDLE).unwrap_or(idle.len());
        idle.drain(..fresh);
        while let Some((stream, _)) = idle.pop() {
            if stream.is_silent() {
                return Some(stream);
            }
        }
        None
    }

    pub(super) fn put(&self, stream: Stream) {
        let mut idle = self.lock();
        if idle.len() == IDLE_CONNECTIONS {
            idle.remove(0);
        }
        idle.push((stream, Instant::now()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Stream, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new connection, to the first of its addresses that takes one.
pub(super) async fn connect(address: &Address) -> io::Result<Stream> {
    let (host, port, tls) = match address {
        Address::Tcp { host, port, tls } => (host, *port, tls),
        Address::Unix(path) => return Ok(Stream::Unix(limited(UnixStream::connect(path)).await?)),
    };
    let stream = connect_tcp(host, port).await?;
    let Some((config, name)) = tls else { return Ok(Stream::Tcp(stream)) };
    let shaking = TlsConnector::from(config.clone()).connect(name.clone(), stream);
    Ok(Stream::Tls(Box::new(limited(shaking).await?.into())))
}

async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = limited(tokio::net::lookup_host((host, port))).await?;
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in addresses {
        match limited(TcpStream::connect(address)).await {
            Ok(stream) => return ready(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn limited<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(CONNECT, step).await.map_err(|_| io::ErrorKind::TimedOut)?
}

fn ready(stream: TcpStream) -> io::Result<TcpStream> {
    // Requests are written whole; without this the last piece of a large one would wait for an acknowledgement.
    stream.set_nodelay(true)?;
    let probes = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&probes)?;
    Ok(stream)
}
