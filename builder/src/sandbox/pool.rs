//! Helper processes made ahead of the steps that need them.
//!
//! To start a program, to make PID namespaces and above all to move a process into a cgroup (which
//! waits for every processor to pass a quiet state) takes longer than all that follows, and depends
//! on nothing that a step asks for. What may change until then, mounts above all, is not prepared.
//!
//! One thread starts all helpers and lives as long as the sandbox: they are tied to it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};

use super::cgroup::{Cgroup, Place};
use super::error::SandboxError;
use super::mount::path_of;
use super::run::HELPER_ARG;
use super::wire::{self, Prepare};

/// Helpers kept ready beside those that somebody waits for.
const READY: usize = 2;

/// How long a helper may take to end by itself, and how often it is looked at.
const PATIENCE: Duration = Duration::from_millis(700);
const PAUSE: Duration = Duration::from_micros(200);

/// A helper that waits to be told what to run.
#[derive(Debug)]
pub(super) struct Helper {
    process: Child,
    /// Where it is told, and reports.
    pub(super) socket: OwnedFd,
    /// What its command is in.
    pub(super) cgroup: Option<Cgroup>,
}

impl Helper {
    fn start(program: &OwnedFd, place: Option<&Place>) -> Result<Self, SandboxError> {
        let failed = |source: io::Error| SandboxError::helper("start the sandbox's helper", source);
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (socket, theirs) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)
            .map_err(|errno| failed(errno.into()))?;
        let cgroup = place.map(Cgroup::prepare).transpose()?;
        let process = Command::new(path_of(program))
            .arg(HELPER_ARG)
            .env_clear()
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let cgroups = cgroup.as_ref().map(Cgroup::dirs).unwrap_or_default();
        let prepare = Prepare { parent: std::process::id(), cgroups };
        let helper = Self { process, socket, cgroup };
        wire::send(helper.socket.as_fd(), &prepare, &[]).map_err(|errno| failed(errno.into()))?;
        Ok(helper)
    }

    /// Kills it, and with it everything that it has started.
    pub(super) fn kill(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
    }

    /// Waits until no process of it is left: it outlives them all.
    pub(super) fn end(&mut self) {
        drop(self.process.wait());
    }
}

/// A caller that unwinds takes its step along. The end of the socket ends everything in order, so
/// that nothing is left when this returns; a helper that does not heed it is killed.
impl Drop for Helper {
    fn drop(&mut self) {
        // A helper that has ended has closed its side already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            sleep(PAUSE);
        }
        self.kill();
        self.end();
    }
}

/// Starts helpers.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Helper>,
    /// Why the last one could not be started; told to whoever waits.
    error: Option<SandboxError>,
    waiting: usize,
    is_closed: bool,
}

impl Pool {
    /// Begins to start helpers from `program`, whose commands have cgroups at `place`.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Helper`] if there can be no thread.
    pub(super) fn open(
        program: Arc<OwnedFd>,
        place: Option<Arc<Place>>,
    ) -> Result<Self, SandboxError> {
        let shared = Arc::new(Shared::default());
        let work = {
            let shared = Arc::clone(&shared);
            move || shared.fill(&program, place.as_deref())
        };
        let thread = std::thread::Builder::new().name("helpers".to_owned()).spawn(work);
        let thread =
            thread.map_err(|error| SandboxError::helper("start the sandbox's thread", error))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Hands out a helper.
    pub(super) fn take(&self) -> Result<Helper, SandboxError> {
        let mut state = self.shared.lock();
        state.waiting += 1;
        self.shared.changed.notify_all();
        let taken = loop {
            if let Some(helper) = state.ready.pop_front() {
                break Ok(helper);
            }
            if let Some(error) = state.error.take() {
                break Err(error);
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.waiting -= 1;
        self.shared.changed.notify_all();
        taken
    }
}

/// The helpers that nobody took end with the pool.
impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It ends in order, or has panicked and told so.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps enough of them ready until the pool is closed.
    fn fill(&self, program: &OwnedFd, place: Option<&Place>) {
        loop {
            let mut state = self.lock();
            while !state.is_closed
                && (state.error.is_some() || state.ready.len() >= READY + state.waiting)
            {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.is_closed {
                state.ready.clear();
                return;
            }
            drop(state);
            let started = Helper::start(program, place);
            let mut state = self.lock();
            match started {
                Ok(helper) => state.ready.push_back(helper),
                Err(error) => state.error = Some(error),
            }
            drop(state);
            self.changed.notify_all();
        }
    }
}
