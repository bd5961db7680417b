//! Passes on what steps ask a resolver that listens on this machine's loopback alone.
//!
//! Resolvers answer whom they know: asked from loopback they give what they give this machine, and
//! refuse an address of ours. So this is a forwarder, not a rule that rewrites addresses.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::super::error::Fault;
use super::plan::Plan;

/// Where resolvers listen.
const PORT: u16 = 53;

/// Largest answer by UDP (RFC 6891 leaves 64 kB as the most).
const DATAGRAM_BYTES: usize = 64 << 10;

/// Questions that wait for an answer at once; more are dropped, and asked again.
const QUESTIONS: usize = 256;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Forwards until the other end of `link` is closed.
pub(super) fn serve_until_closed(link: &OwnedFd, plan: &Plan) -> Result<(), Fault> {
    let Some(resolver) = plan.resolver else {
        wait(&[link.as_fd()], PollTimeout::NONE)?;
        return Ok(());
    };
    let to = SocketAddr::new(IpAddr::V4(resolver), PORT);
    let datagrams = UdpSocket::from(bind(SocketType::DGRAM, plan.gateway())?);
    let streams = TcpListener::from(bind(SocketType::STREAM, plan.gateway())?);
    let mut questions: Vec<Question> = Vec::new();
    let mut conversations: HashMap<u64, Conversation> = HashMap::new();
    let mut next = 0;
    loop {
        let ids: Vec<u64> = conversations.keys().copied().collect();
        let mut fds = vec![link.as_fd(), datagrams.as_fd(), streams.as_fd()];
        fds.extend(questions.iter().map(|question| question.socket.as_fd()));
        for id in &ids {
            fds.extend([conversations[id].client.as_fd(), conversations[id].server.as_fd()]);
        }
        let ready = wait(&fds, PollTimeout::from(1000_u16))?;
        if ready[0] {
            return Ok(());
        }
        let mut rest = ready[3..].iter().copied();
        questions.retain(|question| {
            let is_answered = rest.next().unwrap_or(false) && question.answer(&datagrams);
            !is_answered && question.since.elapsed() < PATIENCE
        });
        for id in ids {
            let is_ready = [rest.next().unwrap_or(false), rest.next().unwrap_or(false)];
            let goes_on = conversations.get_mut(&id).is_some_and(|it| it.pass_on(is_ready));
            if !goes_on {
                conversations.remove(&id);
            }
        }
        if ready[1]
            && let Some(question) = Question::receive(&datagrams, to)
            && questions.len() < QUESTIONS
        {
            questions.push(question);
        }
        if ready[2]
            && conversations.len() < QUESTIONS
            && let Ok(conversation) = Conversation::accept(&streams, to)
        {
            conversations.insert(next, conversation);
            next += 1;
        }
    }
}

/// Waits for any of `fds` and tells which are ready.
fn wait(fds: &[BorrowedFd<'_>], timeout: PollTimeout) -> Result<Vec<bool>, Fault> {
    let mut fds: Vec<PollFd<'_>> =
        fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(fds.iter().map(|fd| fd.any().unwrap_or(false)).collect())
}

/// Listens on the gateway's address, which no interface has before the first step.
fn bind(kind: SocketType, gateway: Ipv4Addr) -> Result<OwnedFd, Fault> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None)?;
    rustix::net::sockopt::set_ip_freebind(&socket, true)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddr::new(IpAddr::V4(gateway), PORT))?;
    if kind == SocketType::STREAM {
        rustix::net::listen(&socket, 64)?;
    }
    Ok(socket)
}

/// One datagram on its way, on a socket of its own: answers cannot be mixed up.
struct Question {
    socket: UdpSocket,
    from: SocketAddr,
    since: Instant,
}

impl Question {
    fn receive(datagrams: &UdpSocket, to: SocketAddr) -> Option<Self> {
        let mut bytes = vec![0; DATAGRAM_BYTES];
        let (length, from) = datagrams.recv_from(&mut bytes).ok()?;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        socket.set_nonblocking(true).ok()?;
        socket.connect(to).ok()?;
        socket.send(&bytes[..length]).ok()?;
        Some(Self { socket, from, since: Instant::now() })
    }

    /// Passes the answer on; a resolver that refuses is an answer that never comes.
    fn answer(&self, datagrams: &UdpSocket) -> bool {
        let mut bytes = vec![0; DATAGRAM_BYTES];
        if let Ok(length) = self.socket.recv(&mut bytes) {
            drop(datagrams.send_to(&bytes[..length], self.from));
        }
        true
    }
}

/// One connection and the one that answers it.
struct Conversation {
    client: TcpStream,
    server: TcpStream,
    since: Instant,
}

impl Conversation {
    fn accept(streams: &TcpListener, to: SocketAddr) -> std::io::Result<Self> {
        let (client, _) = streams.accept()?;
        // On loopback either at once or never.
        let server = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
        for stream in [&client, &server] {
            stream.set_nonblocking(false)?;
            stream.set_write_timeout(Some(Duration::from_secs(2)))?;
        }
        Ok(Self { client, server, since: Instant::now() })
    }

    /// Copies what is ready; false when it is over.
    fn pass_on(&mut self, [from_client, from_server]: [bool; 2]) -> bool {
        let copy = |from: &mut TcpStream, to: &mut TcpStream| {
            let mut bytes = [0; 4096];
            match from.read(&mut bytes) {
                Ok(0) | Err(_) => {
                    // The other end may be gone already.
                    drop(to.shutdown(Shutdown::Write));
                    false
                }
                Ok(length) => to.write_all(&bytes[..length]).is_ok(),
            }
        };
        let is_over = (from_server && !copy(&mut self.server, &mut self.client))
            || (from_client && !copy(&mut self.client, &mut self.server));
        !is_over && self.since.elapsed() < PATIENCE
    }
}
