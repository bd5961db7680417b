//! `RUN --mount=type=ssh`: an agent's socket made for one step, which leads to the user's agent.
//!
//! Invariants: the step never sees the agent's own socket; of the agent's requests only the list
//! of keys and signatures pass, so that a step can use keys but neither add, remove nor lock any
//! (draft-ietf-sshm-ssh-agent, section 3); what is served ends with the step.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cache::{Store, TempDir};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{Gid, Mode, OFlags, Uid};

/// Name of the socket in its directory.
pub(crate) const SOCKET_NAME: &str = "agent";

/// Largest message that agents take (OpenSSH's limit).
const MESSAGE_BYTES: usize = 256 << 10;

/// Connections of one step at once.
const CONNECTIONS: usize = 64;

/// How long a step may take to send the rest of a message that it began.
const STALL_LIMIT: Duration = Duration::from_secs(5);

/// Messages of the agent protocol: those that pass, and the answer to all others.
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];

/// Agents of one build by id: the sockets that they listen on.
pub type SshAgents = std::collections::BTreeMap<String, PathBuf>;

/// A socket for one step.
#[derive(Debug)]
pub(crate) struct AgentSocket {
    dir: TempDir,
    listener: UnixListener,
    agent: PathBuf,
}

impl AgentSocket {
    /// Makes a socket that leads to `agent`.
    pub(crate) fn open(
        store: &Store,
        agent: &Path,
        mode: u32,
        owner: (u32, u32),
    ) -> io::Result<Self> {
        let dir = store.temp_dir().map_err(io::Error::other)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::open(dir.path(), flags, Mode::empty())?;
        // By descriptor: addresses of sockets end at 108 bytes, paths of stores need not.
        let name = format!("/proc/self/fd/{}/{SOCKET_NAME}", raw(&place));
        let listener = UnixListener::bind(name)?;
        listener.set_nonblocking(true)?;
        let socket = dir.path().join(SOCKET_NAME);
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        rustix::fs::chown(&socket, Some(uid), Some(gid))?;
        rustix::fs::chmod(&socket, Mode::from_raw_mode(mode))?;
        Ok(Self { dir, listener, agent: agent.to_owned() })
    }

    /// The directory that holds the socket, and nothing else.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

fn raw(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

/// A step's connection and the agent's.
struct Link {
    step: UnixStream,
    agent: UnixStream,
}

/// Serves `sockets` until the other end of `stop` is closed. What goes wrong between a step and
/// its agent ends their connection, as it would without us.
pub(crate) fn serve(sockets: &[AgentSocket], stop: BorrowedFd<'_>) {
    let mut links: Vec<Link> = Vec::new();
    loop {
        let mut fds = vec![PollFd::new(stop, PollFlags::POLLIN)];
        fds.extend(sockets.iter().map(|it| PollFd::new(it.listener.as_fd(), PollFlags::POLLIN)));
        fds.extend(links.iter().map(|it| PollFd::new(it.step.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                tracing::warn!(%error, "the step's ssh agent is no longer served");
                return;
            }
        }
        let ready: Vec<bool> =
            fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
        if ready[0] {
            return;
        }
        let (of_sockets, of_links) = ready[1..].split_at(sockets.len());
        let mut of_links = of_links.iter();
        links.retain(|link| {
            !of_links.next().copied().unwrap_or(false) || link.pass_message(stop).is_ok()
        });
        for (socket, _) in sockets.iter().zip(of_sockets).filter(|(_, is_ready)| **is_ready) {
            match socket.connect() {
                Ok(link) if links.len() < CONNECTIONS => links.push(link),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a step's connection to its ssh agent"),
            }
        }
    }
}

impl AgentSocket {
    fn connect(&self) -> io::Result<Link> {
        let (step, _) = self.listener.accept()?;
        step.set_nonblocking(false)?;
        step.set_read_timeout(Some(STALL_LIMIT))?;
        step.set_write_timeout(Some(STALL_LIMIT))?;
        Ok(Link { step, agent: UnixStream::connect(&self.agent)? })
    }
}

impl Link {
    /// Passes one request on, and its answer back.
    fn pass_message(&self, stop: BorrowedFd<'_>) -> io::Result<()> {
        let request = read_message(&self.step)?;
        let answer = match request.get(4) {
            Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => {
                io::Write::write_all(&mut &self.agent, &request)?;
                // The agent may ask its user, who takes as long as they take.
                wait_for(&self.agent, stop)?;
                read_message(&self.agent)?
            }
            _ => FAILURE.to_vec(),
        };
        io::Write::write_all(&mut &self.step, &answer)
    }
}

/// Waits until there is something to read, or `stop` is closed, which is an error.
fn wait_for(agent: &UnixStream, stop: BorrowedFd<'_>) -> io::Result<()> {
    let mut fds =
        [PollFd::new(agent.as_fd(), PollFlags::POLLIN), PollFd::new(stop, PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) if fds[1].revents().is_some_and(|events| !events.is_empty()) => {
                return Err(io::ErrorKind::Interrupted.into());
            }
            Ok(_) => return Ok(()),
        }
    }
}

/// Reads a message with its length of four bytes.
fn read_message(mut from: &UnixStream) -> io::Result<Vec<u8>> {
    let mut head = [0; 4];
    io::Read::read_exact(&mut from, &mut head)?;
    let length = u32::from_be_bytes(head) as usize;
    if length == 0 || length > MESSAGE_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; 4 + length];
    message[..4].copy_from_slice(&head);
    io::Read::read_exact(&mut from, &mut message[4..])?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// Asks an agent of our own through a step's socket.
    #[test]
    fn keys_can_be_used_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let agent_path = dir.path().join("agent.sock");
        let agent = UnixListener::bind(&agent_path).unwrap();
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let sockets = [AgentSocket::open(&store, &agent_path, 0o600, owner).unwrap()];
        let (ended, running) = rustix::pipe::pipe().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| serve(&sockets, ended.as_fd()));
            let mut step = UnixStream::connect(sockets[0].dir().join(SOCKET_NAME)).unwrap();
            // An agent that echoes.
            let echo = scope.spawn(move || {
                let (mut link, _) = agent.accept().unwrap();
                let mut seen = Vec::new();
                let mut buffer = [0; 6];
                while link.read_exact(&mut buffer).is_ok() {
                    seen.push(buffer[4]);
                    link.write_all(&buffer).unwrap();
                }
                seen
            });
            // Add, remove all, lock, extension: refused. List, sign: passed on.
            for (kind, passes) in
                [(17, false), (11, true), (19, false), (22, false), (27, false), (13, true)]
            {
                let message = [0, 0, 0, 2, kind, 0];
                step.write_all(&message).unwrap();
                let mut answer = vec![0; if passes { 6 } else { 5 }];
                step.read_exact(&mut answer).unwrap();
                assert_eq!(answer, if passes { message.to_vec() } else { FAILURE.to_vec() });
            }
            // A message beyond all limits ends the connection.
            step.write_all(&[0xff; 4]).unwrap();
            assert_eq!(step.read(&mut [0; 1]).unwrap(), 0);
            assert_eq!(echo.join().unwrap(), [11, 13]);
            drop(running);
        });
    }
}
