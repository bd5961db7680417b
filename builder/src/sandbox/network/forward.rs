//! Ports of this machine that lead into a network: accepted here, connected there.
//!
//! A socket belongs to the network namespace that it was made in, whoever uses it, so a connection
//! is passed on by one that was made inside: nothing of the firewall takes part.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::pipe::PipeFlags;

use super::super::error::{At as _, Fault};
use super::super::spec::PortForward;
use super::in_namespace;

/// How long the program inside may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ports that are open; dropping this closes them.
#[derive(Debug)]
pub(super) struct Forwards {
    /// Its end tells the listeners.
    _open: Option<OwnedFd>,
}

impl Forwards {
    /// Opens `ports` and leads them to `address` in `netns`.
    pub(super) fn open(
        ports: &[PortForward],
        netns: &OwnedFd,
        address: Ipv4Addr,
    ) -> Result<Self, Fault> {
        if ports.is_empty() {
            return Ok(Self { _open: None });
        }
        let (end, open) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (end, netns) = (Arc::new(end), Arc::new(netns.try_clone()?));
        for port in ports {
            let refused =
                |error: io::Error| Fault::network(format!("cannot forward {}: {error}", port.host));
            let listener = TcpListener::bind(port.host).map_err(refused)?;
            let to = SocketAddr::from((address, port.port));
            let (end, netns) = (Arc::clone(&end), Arc::clone(&netns));
            let listen = move || while accept(&listener, &end, &netns, to) {};
            thread::Builder::new().name("port".to_owned()).spawn(listen).at("thread")?;
        }
        Ok(Self { _open: Some(open) })
    }
}

/// Waits for a connection and has it served; false when the ports are closed.
fn accept(listener: &TcpListener, end: &OwnedFd, netns: &Arc<OwnedFd>, to: SocketAddr) -> bool {
    let mut fds = [listener.as_fd(), end.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) if fds[1].any().unwrap_or(true) => return false,
        Ok(_) => {}
        Err(errno) => return errno == nix::errno::Errno::EINTR,
    }
    if let Ok((client, _)) = listener.accept() {
        let netns = Arc::clone(netns);
        // A connection that cannot be served is closed, which tells the client.
        drop(thread::Builder::new().spawn(move || drop(serve(&client, &netns, to))));
    }
    true
}

fn serve(client: &TcpStream, netns: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    let connect = || TcpStream::connect_timeout(&to, PATIENCE).at(to);
    let server = in_namespace(netns, connect)
        .map_err(|fault| io::Error::from_raw_os_error(fault.errno()))?;
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &server));
        copy(&server, client);
    });
    Ok(())
}

/// Copies to the end, and tells the other side of it.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    // Either side may break off; then there is nothing left to copy.
    drop(io::copy(&mut from, &mut to));
    drop(to.shutdown(Shutdown::Write));
}
