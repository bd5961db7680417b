//! The builder's end of a command's terminal: bytes both ways, and the size of the window.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, Winsize};

/// Milliseconds after which the size of the window is looked at again.
const SIZE_INTERVAL: u16 = 100;

/// Bytes passed on at once.
const CHUNK: usize = 16 << 10;

/// Returns rows and columns of this process's terminal, if it has one.
pub(crate) fn terminal_size() -> Option<(u16, u16)> {
    window_size().map(|size| (size.ws_row, size.ws_col))
}

fn window_size() -> Option<Winsize> {
    rustix::termios::tcgetwinsize(rustix::stdio::stdin()).ok()
}

/// Joins this process's standard streams to a command's terminal until dropped.
#[derive(Debug)]
pub(super) struct Console {
    /// Closing it ends the thread.
    stop: Option<OwnedFd>,
    relay: Option<JoinHandle<()>>,
}

impl Console {
    /// Begins; `takes_input` joins standard input too.
    pub(super) fn start(command: OwnedFd, takes_input: bool) -> io::Result<Self> {
        let (stop_seen, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let flags = rustix::fs::fcntl_getfl(&command)?;
        rustix::fs::fcntl_setfl(&command, flags | rustix::fs::OFlags::NONBLOCK)?;
        let raw = if takes_input { RawMode::enter() } else { None };
        let relay = std::thread::Builder::new().name("console".to_owned()).spawn(move || {
            let _restored_when_done = raw;
            let mut relay = Relay { command, stop: stop_seen, takes_input, pending: Vec::new() };
            if let Err(error) = relay.run() {
                tracing::debug!(%error, "the terminal is no longer served");
            }
        })?;
        Ok(Self { stop: Some(stop), relay: Some(relay) })
    }
}

/// Waits until what the command wrote last has been shown.
impl Drop for Console {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(relay) = self.relay.take() {
            drop(relay.join());
        }
    }
}

/// The terminal of this process passing every key on, until dropped.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> Option<Self> {
        let before = rustix::termios::tcgetattr(rustix::stdio::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

struct Relay {
    command: OwnedFd,
    stop: OwnedFd,
    takes_input: bool,
    /// Keys that the command's terminal had no room for.
    pending: Vec<u8>,
}

impl Relay {
    fn run(&mut self) -> io::Result<()> {
        let mut size = None;
        loop {
            let now = window_size();
            if let Some(now) = now.filter(|now| size.as_ref() != Some(&(now.ws_row, now.ws_col))) {
                size = Some((now.ws_row, now.ws_col));
                rustix::termios::tcsetwinsize(&self.command, now)?;
            }
            let [has_output, has_stopped, has_input] = self.wait()?;
            if has_output && !self.pass_output()? {
                return Ok(());
            }
            if has_stopped && !has_output {
                return Ok(());
            }
            if has_input {
                self.read_input()?;
            }
            self.pass_input()?;
        }
    }

    fn wait(&self) -> io::Result<[bool; 3]> {
        let stdin = rustix::stdio::stdin();
        let mut for_command = PollFlags::POLLIN;
        for_command.set(PollFlags::POLLOUT, !self.pending.is_empty());
        let mut fds = vec![
            PollFd::new(self.command.as_fd(), for_command),
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
        ];
        if self.takes_input && self.pending.is_empty() {
            fds.push(PollFd::new(stdin, PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::from(SIZE_INTERVAL)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let but_writable = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
        let has = |index: usize| {
            let seen = fds.get(index).and_then(PollFd::revents);
            seen.is_some_and(|events| events.intersects(but_writable))
        };
        Ok([has(0), has(1), has(2)])
    }

    /// Shows what the command wrote; false when nobody holds its end any more.
    fn pass_output(&self) -> io::Result<bool> {
        let mut chunk = [0; CHUNK];
        match rustix::io::read(&self.command, &mut chunk) {
            Ok(0) | Err(Errno::IO) => Ok(false),
            Ok(length) => {
                let mut out = io::stdout().lock();
                out.write_all(&chunk[..length])?;
                out.flush()?;
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    fn read_input(&mut self) -> io::Result<()> {
        let mut chunk = [0; CHUNK];
        let length = rustix::io::read(rustix::stdio::stdin(), &mut chunk)?;
        if length == 0 {
            // What a terminal sends at the end of its input.
            self.takes_input = false;
            self.pending.push(4);
        }
        self.pending.extend_from_slice(&chunk[..length]);
        Ok(())
    }

    fn pass_input(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.command, &self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
