//! Sockets, connections, and the end of the service.

use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use builder::ErrorKind;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::guard::Exposure;
use super::{Peer, Service, router};
use crate::address::{Address, is_loopback};
use crate::fault::Fault;

/// Mode of the socket file: its owner and its group may build.
const SOCKET_MODE: u32 = 0o660;

/// Connections at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 512;

/// Bytes of a request's head. Credentials for many registries come in one header.
const HEAD_LIMIT: usize = 256 << 10;

/// A head that takes longer to arrive is given up.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// What was cancelled may take this long to clean up.
const CLEAN_UP: Duration = Duration::from_secs(15);

/// A bound socket.
#[derive(Debug)]
pub(crate) enum Listener {
    /// A socket file, removed at the end if it is ours.
    Unix(UnixListener, Option<SocketFile>),
    /// A TCP port.
    Tcp(TcpListener, Port),
}

/// How a TCP port is protected.
#[derive(Clone, Default)]
pub(crate) struct Port {
    /// Speaks TLS, with the certificate of the moment.
    pub(crate) tls: Option<watch::Receiver<TlsAcceptor>>,
    /// Whoever may do anything has shown a token or a certificate: other machines may ask.
    pub(crate) is_guarded: bool,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_tls = self.tls.is_some();
        f.debug_struct("Port").field("tls", &has_tls).field("is_guarded", &self.is_guarded).finish()
    }
}

/// Removes the socket's file when dropped.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // At the end of the process there is nobody left to act on a failure.
        drop(std::fs::remove_file(&self.0));
    }
}

impl Listener {
    /// Takes the socket that the service's manager has bound (`sd_listen_fds(3)`), if there is one.
    ///
    /// # Errors
    ///
    /// More sockets than one, one of another kind, or a port that other machines could reach and
    /// nothing guards.
    pub(crate) fn inherited(guard: &Port) -> Result<Option<Self>, Fault> {
        let mut sockets = listenfd::ListenFd::from_env();
        match sockets.len() {
            0 => return Ok(None),
            1 => {}
            count => {
                let what = format!("{count} sockets are handed over, and one can be used");
                return Err(Fault::user(what));
            }
        }
        let fault = |error: io::Error| Fault::of(ErrorKind::Host, &error);
        if let Ok(Some(listener)) = sockets.take_unix_listener(0) {
            listener.set_nonblocking(true).map_err(fault)?;
            let listener = UnixListener::from_std(listener).map_err(fault)?;
            return Ok(Some(Self::Unix(listener, None)));
        }
        let listener = sockets.take_tcp_listener(0).map_err(fault)?;
        let Some(listener) = listener else { return Ok(None) };
        listener.set_nonblocking(true).map_err(fault)?;
        let listener = TcpListener::from_std(listener).map_err(fault)?;
        Self::guarded(listener, guard.clone()).map(Some)
    }

    /// Binds `address`. A socket file that nobody listens on any more is replaced.
    ///
    /// # Errors
    ///
    /// A TCP address that other machines could reach and nothing guards, a socket in use, a
    /// directory that cannot be written.
    pub(crate) async fn bind(address: &Address, guard: Port) -> Result<Self, Fault> {
        match address {
            Address::Unix(path) => Self::bind_unix(path).await,
            Address::Https { .. } if guard.tls.is_none() => {
                let what = format!("listening on {address} needs a certificate and its key");
                Err(Fault::user(what).with_help("name them with --tls-cert and --tls-key"))
            }
            Address::Tcp { host, port } | Address::Https { host, port } => {
                Self::bind_tcp(host, *port, guard).await
            }
        }
    }

    async fn bind_unix(path: &Path) -> Result<Self, Fault> {
        let fault = |error: &io::Error| Fault::file("listen on", path, error);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| fault(&error))?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                let what = format!("`{}` is there already and is no socket", path.display());
                return Err(Fault::user(what));
            }
            Ok(_) if tokio::net::UnixStream::connect(path).await.is_ok() => {
                let what = format!("another service listens on `{}`", path.display());
                return Err(Fault::user(what).with_help("stop it, or choose another with --listen"));
            }
            Ok(_) => std::fs::remove_file(path).map_err(|error| fault(&error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fault(&error)),
        }
        // Between bind and chmod nobody else may connect.
        let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        rustix::process::umask(umask);
        let listener = bound.map_err(|error| fault(&error))?;
        let file = SocketFile(path.to_owned());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))
            .map_err(|error| fault(&error))?;
        Ok(Self::Unix(listener, Some(file)))
    }

    async fn bind_tcp(host: &str, port: u16, guard: Port) -> Result<Self, Fault> {
        if !guard.is_guarded && !is_loopback(host) {
            return Err(unguarded(host));
        }
        let listener = TcpListener::bind((host, port)).await.map_err(|error| {
            let what = format!("could not listen on `{host}` port {port}");
            Fault { causes: vec![what, error.to_string()], ..Fault::new(ErrorKind::Host, "") }
        })?;
        Self::guarded(listener, guard)
    }

    /// Looks at the address that counts: a name of this machine's may have been given another.
    fn guarded(listener: TcpListener, guard: Port) -> Result<Self, Fault> {
        match listener.local_addr() {
            Ok(local) if guard.is_guarded || local.ip().is_loopback() => {
                Ok(Self::Tcp(listener, guard))
            }
            Ok(local) => Err(unguarded(&local.ip().to_string())),
            Err(error) => Err(Fault::of(ErrorKind::Host, &error)),
        }
    }

    /// Returns where it listens, the port filled in.
    pub(crate) fn address(&self) -> Address {
        match self {
            Self::Unix(_, Some(file)) => Address::Unix(file.0.clone()),
            Self::Unix(listener, None) => {
                let local = listener.local_addr().ok();
                let path = local.and_then(|local| local.as_pathname().map(Path::to_owned));
                Address::Unix(path.unwrap_or_default())
            }
            Self::Tcp(listener, guard) => {
                let local = listener.local_addr().ok();
                let host = local.map_or_else(String::new, |local| local.ip().to_string());
                let port = local.map_or(0, |local| local.port());
                match guard.tls {
                    Some(_) => Address::Https { host, port },
                    None => Address::Tcp { host, port },
                }
            }
        }
    }

    /// Tells how peers reach it.
    pub(crate) fn exposure(&self) -> Exposure {
        match self {
            Self::Unix(..) => Exposure::Socket,
            Self::Tcp(listener, _) => match listener.local_addr() {
                Ok(local) if !local.ip().is_loopback() => Exposure::Network,
                _ => Exposure::Loopback,
            },
        }
    }

    /// Takes the next connection; what is left to agree on is done by [`Accepted::establish`].
    async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        Ok(match self {
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let peer = stream.peer_cred().map(|peer| format!("user {}", peer.uid()));
                (Accepted::Plain(Box::new(stream)), Peer(peer.unwrap_or_default()))
            }
            Self::Tcp(listener, guard) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let accepted = match &guard.tls {
                    Some(tls) => Accepted::Tls(stream, tls.borrow().clone()),
                    None => Accepted::Plain(Box::new(stream)),
                };
                (accepted, Peer(format!("address {}", address.ip())))
            }
        })
    }
}

fn unguarded(host: &str) -> Fault {
    let what = format!("refusing to listen on `{host}`: who reaches this port may build");
    Fault::user(what).with_help(
        "use a loopback address such as tcp://127.0.0.1:2375, or guard the port by --token-file or \
         --tls-client-ca",
    )
}

/// A connection that may still have to agree on TLS.
enum Accepted {
    Plain(Box<dyn Stream>),
    Tls(TcpStream, TlsAcceptor),
}

impl Accepted {
    async fn establish(self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Plain(stream) => Ok(stream),
            Self::Tls(stream, acceptor) => {
                let agreed = tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await;
                Ok(Box::new(agreed.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??))
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How long connections may take to send what is left, once all work has ended.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// Answers connections until `shutdown`; then lets what runs finish for a while, cancels the rest,
/// and waits until all of it has cleaned up.
pub(crate) async fn serve(listener: Listener, service: Service, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let router = router(service.clone());
    while let Some(slot) = shutdown.run_until_cancelled(slots.clone().acquire_owned()).await {
        let Ok(slot) = slot else { break };
        let (stream, peer) = match shutdown.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) => {
                tracing::warn!(%error, "could not accept a connection");
                // Out of descriptors, most likely: the next try would fail at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answers = TowerToHyperService::new(router.clone().layer(Extension(peer)));
        let shutdown = shutdown.clone();
        connections.spawn(async move {
            let _slot = slot;
            let stream = match stream.establish().await {
                Ok(stream) => stream,
                Err(error) => return tracing::debug!(%error, "no TLS with a peer"),
            };
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_LIMIT)
                .serve_connection(TokioIo::new(stream), answers)
                .with_upgrades();
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended early");
            }
        });
    }
    drop(listener);
    end(&service, &connections).await;
}

async fn end(service: &Service, connections: &TaskTracker) {
    let tasks = &service.0.tasks;
    service.0.ending.cancel();
    connections.close();
    tasks.close();
    if tokio::time::timeout(service.limits().shutdown, tasks.wait()).await.is_err() {
        service.0.stop.cancel();
        if tokio::time::timeout(CLEAN_UP, tasks.wait()).await.is_err() {
            let seconds = CLEAN_UP.as_secs();
            tracing::error!("builds did not end within {seconds} s of their cancelling");
        }
    }
    service.builder().flush_telemetry().await;
    // Whoever is still connected waits for last bytes, or has sent a request only in part.
    if tokio::time::timeout(LAST_BYTES, connections.wait()).await.is_err() {
        tracing::debug!("connections were left open");
    }
}
