//! Where connections come in: sockets of our own, or those that a service manager holds for us.

use crate::config::{Address, Config};
use crate::net::Stream;
use anyhow::{Context, bail};
use listenfd::ListenFd;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, UnixListener};

/// An open door.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: Option<SocketFile> },
}

/// The file of a Unix socket that we have made; it goes with us, unless another has taken its place.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

/// Sockets handed over by a service manager, by their names (`FileDescriptorName=`) where it gives any, else in the
/// order clients, metrics, admin.
pub(super) struct Inherited {
    sockets: ListenFd,
    names: Vec<String>,
}

impl Inherited {
    pub(super) fn from_env() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.split(':').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Self { sockets: ListenFd::from_env(), names }
    }

    fn take(&mut self, name: &str, place: usize) -> anyhow::Result<Option<Listener>> {
        const NAMES: [&str; 3] = ["clients", "metrics", "admin"];
        let at = match self.names.iter().any(|name| NAMES.contains(&name.as_str())) {
            true => self.names.iter().position(|given| given == name),
            false => (place < self.sockets.len()).then_some(place),
        };
        let Some(at) = at else { return Ok(None) };
        // Either kind; the first try leaves it where it is.
        if let Ok(Some(socket)) = self.sockets.take_tcp_listener(at) {
            socket.set_nonblocking(true)?;
            return Ok(Some(Listener::Tcp(TcpListener::from_std(socket)?)));
        }
        let what = || format!("the socket for {name} that was handed over does not listen");
        let Some(socket) = self.sockets.take_unix_listener(at).with_context(what)? else { return Ok(None) };
        socket.set_nonblocking(true)?;
        Ok(Some(Listener::Unix { listener: UnixListener::from_std(socket)?, _file: None }))
    }
}

impl Listener {
    /// Clients, metrics, admin. Errors name the address and the key that sets it.
    pub(super) async fn all(config: &Config) -> anyhow::Result<[Self; 3]> {
        let mut inherited = Inherited::from_env();
        let mut each = async |address: &Address, key: &str, name: &str, place: usize| {
            if let Some(listener) = inherited.take(name, place)? {
                match listener.address() {
                    Ok(held) if held != *address => tracing::warn!(
                        "{name} are served on {held}, which the service manager holds, and not on gateway.{key}, {address}"
                    ),
                    _ => {}
                }
                return Ok::<_, anyhow::Error>(listener);
            }
            let what = || format!("cannot listen on {address} (gateway.{key})");
            match address {
                Address::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await.with_context(what)?)),
                Address::Unix(path) => bind_unix(path).await.with_context(what),
            }
        };
        Ok([
            each(&config.listen, "listen", "clients", 0).await?,
            each(&config.metrics_listen, "metrics_listen", "metrics", 1).await?,
            each(&config.admin_listen, "admin_listen", "admin", 2).await?,
        ])
    }

    pub(super) fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Self::Unix { listener, .. } => {
                let address = listener.local_addr()?;
                Ok(Address::Unix(address.as_pathname().map(PathBuf::from).unwrap_or_default()))
            }
        }
    }

    /// Who comes through a Unix socket is on this machine.
    pub(super) async fn accept(&self) -> io::Result<(Stream, IpAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                // Events are small and each is flushed at once; without this they would wait for acknowledgements.
                let _only_slower = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), from.ip()))
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), Ipv4Addr::LOCALHOST.into()))
            }
        }
    }
}

async fn bind_unix(path: &Path) -> anyhow::Result<Listener> {
    match UnixListener::bind(path) {
        // Whoever left it may be gone.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let tried = tokio::net::UnixStream::connect(path).await;
            let is_left = tried.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
            if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
                bail!("there is a file that is no socket");
            }
            if !is_left {
                bail!("another process listens there");
            }
            std::fs::remove_file(path)?;
            listening(UnixListener::bind(path)?, path)
        }
        bound => listening(bound?, path),
    }
}

fn listening(listener: UnixListener, path: &Path) -> anyhow::Result<Listener> {
    let inode = std::fs::metadata(path)?.ino();
    Ok(Listener::Unix { listener, _file: Some(SocketFile { path: path.to_owned(), inode }) })
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::metadata(&self.path).is_ok_and(|now| now.ino() == self.inode) {
            let _already_gone = std::fs::remove_file(&self.path);
        }
    }
}
