//! Helper processes made ahead of the steps that need them.
//!
//! To make PID namespaces and above all to move a process into a cgroup (which waits for every
//! processor to pass a quiet state) takes longer than all that follows, and depends on nothing that
//! a step asks for. The mounts that all steps have are made ahead too. What is left of a step,
//! processes of ours, cgroups, a network, is cleared away here as well: nobody waits for that.
//!
//! One thread starts all helpers and lives as long as the sandbox: they are tied to it, by way of a
//! small process that they are forked from.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};
use rustix::process::Signal;

use super::cgroup::{Cgroup, Place};
use super::error::{Fault, SandboxError};
use super::leftovers::Leftovers;
use super::mount::path_of;
use super::network::Network;
use super::run::HELPER_ARG;
use super::wire::{self, Hello, Prepare, Spawned};

/// Helpers kept ready at most, beside those that somebody waits for.
const READY: usize = 2;

/// How long a step that begins is left alone: it takes the same locks of the kernel as what is made
/// for the next one.
pub(super) const LULL: Duration = Duration::from_millis(10);

/// How long a helper may take to end by itself, in milliseconds.
const PATIENCE: u16 = 700;

/// The first process of a sandbox, which waits to be told what to run.
#[derive(Debug)]
pub(super) struct Helper {
    /// A descriptor of the process, which the kernel reaps.
    pub(super) process: Arc<OwnedFd>,
    /// Where it takes orders and reports, and its command reports.
    pub(super) socket: OwnedFd,
    /// Where its command is told what to become. Apart, so that the other process, which watches,
    /// sleeps until the command has ended.
    pub(super) launch: OwnedFd,
    /// What its command is in.
    pub(super) cgroup: Option<Cgroup>,
    /// Tells when something is mounted or unmounted in our mount namespace, of which it has a copy.
    mounts: File,
}

impl Helper {
    /// Whether its mounts are no longer ours: a table of mounts that has changed since it was opened
    /// has an exceptional condition (`proc_pid_mounts(5)`).
    fn is_stale(&self) -> bool {
        let mut fds = [PollFd::new(self.mounts.as_fd(), PollFlags::POLLPRI)];
        !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }

    /// Kills it, and with it everything that it has started.
    pub(super) fn kill(&self) {
        // It may have ended by itself.
        let _ = rustix::process::pidfd_send_signal(&self.process, Signal::KILL);
    }

    /// Waits until no process of it is left: it outlives them all. False if that takes too long.
    fn end(&self, patience: PollTimeout) -> bool {
        wait_for_end(&self.process, patience)
    }
}

/// Waits until a process has ended, with all that it has; false if that takes too long.
pub(super) fn wait_for_end(process: &OwnedFd, patience: PollTimeout) -> bool {
    loop {
        // A descriptor of a process can be read from when that has ended (pidfd_open(2)).
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, patience) {
            Ok(0) => return false,
            Err(Errno::EINTR) => {}
            Ok(_) | Err(_) => return true,
        }
    }
}

/// A caller that unwinds takes its step along. The end of the socket ends everything in order, so
/// that nothing is left when this returns; a helper that does not heed it is killed.
impl Drop for Helper {
    fn drop(&mut self) {
        // A helper that has ended has closed its side already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        if !self.end(PollTimeout::from(PATIENCE)) {
            self.kill();
            self.end(PollTimeout::NONE);
        }
    }
}

/// The process that helpers are forked from; it ends with this, and with the thread that started it.
#[derive(Debug)]
struct Spawner {
    process: Child,
    /// `None` while it is told to end.
    socket: Option<OwnedFd>,
}

impl Spawner {
    fn start(program: &OwnedFd) -> io::Result<Self> {
        let (socket, theirs) = socket_pair()?;
        let process = Command::new(path_of(program))
            .arg(HELPER_ARG)
            .env_clear()
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let spawner = Self { process, socket: Some(socket) };
        wire::send(spawner.socket(), &Hello { parent: std::process::id() }, &[])?;
        Ok(spawner)
    }

    fn socket(&self) -> &OwnedFd {
        self.socket.as_ref().expect("it is taken by drop alone")
    }

    /// Makes a helper, whose command is in `cgroup`.
    fn spawn(&self, cgroup: Option<Cgroup>) -> Result<Helper, Fault> {
        let (socket, theirs) = socket_pair()?;
        let (launch, commands) = socket_pair()?;
        // Before the copy is made.
        let mounts = File::open("/proc/self/mountinfo")?;
        let cgroups = cgroup.as_ref().map(Cgroup::dirs).unwrap_or_default();
        wire::send(self.socket(), &Prepare { cgroups }, &[theirs.as_fd(), commands.as_fd()])?;
        match wire::receive::<Spawned>(self.socket())? {
            Some((Spawned::Here, fds)) => {
                let process = fds.into_iter().next().ok_or(rustix::io::Errno::BADMSG)?;
                Ok(Helper { process: Arc::new(process), socket, launch, cgroup, mounts })
            }
            Some((Spawned::Refused(fault), _)) => Err(fault),
            None => Err(rustix::io::Errno::PIPE.into()),
        }
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        drop(self.socket.take());
        // It was started, so waiting fails only if somebody else has waited for it.
        drop(self.process.wait());
    }
}

fn socket_pair() -> Result<(OwnedFd, OwnedFd), rustix::io::Errno> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)
}

/// Starts helpers.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    leftovers: Leftovers,
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
    /// Steps that are going to be run and have not begun.
    expected: usize,
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
        let failed = |error| SandboxError::helper("start the sandbox's threads", error);
        let (thread, leftovers) = (thread.map_err(failed)?, Leftovers::open().map_err(failed)?);
        Ok(Self { shared, thread: Some(thread), leftovers })
    }

    /// Has helpers made ready for `count` more steps.
    pub(super) fn expect(&self, count: usize) {
        self.shared.lock().expected += count;
        self.shared.changed.notify_all();
    }

    /// Takes back that `count` steps are expected; helpers that nobody will take are ended.
    pub(super) fn forget(&self, count: usize) {
        let mut state = self.shared.lock();
        state.expected = state.expected.saturating_sub(count);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Hands out a helper, to a step that may have been expected.
    pub(super) fn take(&self, is_expected: bool) -> Result<Helper, SandboxError> {
        let mut state = self.shared.lock();
        state.expected = state.expected.saturating_sub(usize::from(is_expected));
        state.waiting += 1;
        self.shared.changed.notify_all();
        let taken = loop {
            match state.ready.pop_front() {
                Some(helper) if helper.is_stale() => {
                    self.leftovers.take(helper, None);
                    self.shared.changed.notify_all();
                    continue;
                }
                Some(helper) => break Ok(helper),
                None => {}
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

    /// Takes over what is left of a step that has ended, and clears it away some time soon.
    pub(super) fn retire(&self, helper: Helper, network: Option<Network>) {
        self.leftovers.take(helper, network);
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
        let mut spawner = None;
        loop {
            let mut state = self.lock();
            while state.is_idle() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state = self.let_begin(state);
            if state.is_closed {
                let left = std::mem::take(&mut state.ready);
                drop(state);
                return drop(left);
            }
            // What was lacking may have been taken back meanwhile.
            let surplus = state.take_surplus();
            let has_enough = state.is_idle();
            drop(state);
            drop(surplus);
            if has_enough {
                continue;
            }
            let made = Self::make(&mut spawner, program, place);
            let mut state = self.lock();
            match made {
                Ok(helper) => state.ready.push_back(helper),
                Err(error) => state.error = Some(error),
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Leaves a step alone that has just begun, unless another one waits.
    fn let_begin<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let is_calm = |state: &mut State| {
            !state.is_closed && !state.ready.is_empty() && state.ready.len() >= state.waiting
        };
        let waited = self.changed.wait_timeout_while(state, LULL, is_calm);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Makes a helper; a spawner that is not there, or was killed, is started.
    fn make(
        spawner: &mut Option<Spawner>,
        program: &OwnedFd,
        place: Option<&Place>,
    ) -> Result<Helper, SandboxError> {
        const WHAT: &str = "start the sandbox's helper";
        let failed = |source: io::Error| SandboxError::helper(WHAT, source);
        let is_gone = |spawner: &mut Spawner| !matches!(spawner.process.try_wait(), Ok(None));
        spawner.take_if(is_gone);
        if spawner.is_none() {
            *spawner = Some(Spawner::start(program).map_err(failed)?);
        }
        let running = spawner.as_ref().expect("it was just started");
        let made = running.spawn(place.map(Cgroup::prepare).transpose()?);
        made.map_err(|fault| SandboxError::reported(WHAT.to_owned(), fault))
    }
}

impl State {
    fn is_idle(&self) -> bool {
        let has_enough = self.error.is_some() || self.ready.len() == self.enough();
        !self.is_closed && has_enough
    }

    /// Helpers that are to be ready.
    fn enough(&self) -> usize {
        READY.min(self.expected) + self.waiting
    }

    fn take_surplus(&mut self) -> VecDeque<Helper> {
        self.ready.split_off(self.enough().min(self.ready.len()))
    }
}
