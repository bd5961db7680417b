//! The first process of the outer PID namespace: has a process ready for the command, tells it what
//! to run, and waits for its end.
//!
//! The command is the first process of a PID namespace of its own, as in Docker. Whatever becomes
//! of the builder, this process ends with it, and with it, by the kernel's rule for first
//! processes, everything in both namespaces. The command cannot escape that by changing its user,
//! which would clear a parent-death signal of its own.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use super::child::Child;
use super::error::Fault;
use super::ground::Ground;
use super::run::Exit;
use super::wire::{self, Descriptors, Launch, Launched, Order, Prepare, Report};
use super::{ca_bundle, namespace, sys};
use crate::limits::StepUsage;

/// Prepares a process for the command, which waits to be told over `launch` what to run; takes orders
/// over `control` until it has ended, and reports that.
pub(super) fn run(control: &OwnedFd, launch: &OwnedFd, prepare: &Prepare) -> ExitCode {
    match start(control, launch, prepare).and_then(|started| match started {
        Started::Command(code) => Ok(code),
        Started::Watch(running) => running.work(control),
    }) {
        Ok(code) => code,
        Err((step, fault)) => {
            wire::send_failure(control, step, fault);
            ExitCode::FAILURE
        }
    }
}

/// Which of two processes this is.
enum Started {
    /// The command's, which failed to become it.
    Command(ExitCode),
    /// The one that waits for it.
    Watch(Running),
}

/// The command, and what belongs to it.
struct Running {
    pidfd: OwnedFd,
    notes: OwnedFd,
    /// Where the command's process says what it was told, and leaves what takes long to let go of.
    link: OwnedFd,
}

fn start(
    control: &OwnedFd,
    launch: &OwnedFd,
    prepare: &Prepare,
) -> Result<Started, (&'static str, Fault)> {
    let system = |errno: Errno| ("start the command", Fault::from(errno));
    let notes = rustix::fs::memfd_create("sandbox-notes", MemfdFlags::CLOEXEC).map_err(system)?;
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let (link, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None).map_err(system)?;
    let fork = || {
        unshare(CloneFlags::CLONE_NEWPID)?;
        sys::fork()
    };
    let Some(pid) = fork().map_err(|errno| ("new PID namespace", Fault::from(errno)))? else {
        drop(link);
        return Ok(Started::Command(become_command(control, launch, &theirs, prepare, notes)));
    };
    let pid = Pid::from_raw(pid.as_raw()).expect("fork returns a process id above zero");
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(system)?;
    Ok(Started::Watch(Running { pidfd, notes, link }))
}

/// Prepares, waits for a spec and becomes its command; returns if that fails.
fn become_command(
    control: &OwnedFd,
    launch: &OwnedFd,
    link: &OwnedFd,
    prepare: &Prepare,
    notes: OwnedFd,
) -> ExitCode {
    // Before the cgroups: what is made ahead is ours, and costs more within one.
    let ground = Ground::make();
    let prepared = namespace::join_cgroups(&prepare.cgroups);
    let receive = || -> Result<Option<Child>, Fault> {
        let Some((launch, fds)) = wire::receive::<Launch>(launch)? else { return Ok(None) };
        let fds = Descriptors::sort(&launch, fds)?;
        let launched =
            Launched { unclean: launch.unclean.clone(), timeline: launch.timeline.clone() };
        wire::send(link, &launched, &[])?;
        prepared?;
        let ground = match ground {
            Ok(ground) => ground,
            Err((step, fault)) => {
                wire::send_failure(control, step, fault);
                return Ok(None);
            }
        };
        rustix::stdio::dup2_stdin(&fds.stdin.map_or_else(super::helper::open_null, Ok)?)?;
        rustix::stdio::dup2_stdout(&fds.stdout)?;
        rustix::stdio::dup2_stderr(&fds.stderr)?;
        let mut spec = wire::read_spec(&fds.spec)?;
        if !spec.ca_certs.is_empty() {
            ca_bundle::end_line(&mut spec.ca_certs);
            ca_bundle::fill_environment(&mut spec.env);
        }
        let mut child = Child::new(spec, ground, notes);
        child.attic = Some(link.try_clone()?);
        (child.cgroups, child.netns) = (launch.cgroups, fds.netns);
        child.control = Some(control.try_clone()?);
        (child.resolver, child.gateway) = (launch.resolver, launch.gateway);
        child.hands_out_changes = launch.hands_out_changes;
        child.timeline = launch.timeline;
        child.timeline.mark("hand over");
        Ok(Some(child))
    };
    match receive() {
        Ok(Some(child)) => child.run(control),
        Ok(None) => ExitCode::FAILURE,
        Err(fault) => {
            wire::send_failure(control, "prepare the command", fault);
            ExitCode::FAILURE
        }
    }
}

impl Running {
    /// Watches what becomes of the command.
    ///
    /// What came over `link` is let go of when this process ends: behind the builder's back, who has
    /// the report by then.
    fn work(&self, control: &OwnedFd) -> Result<ExitCode, (&'static str, Fault)> {
        let watching = |fault| ("watch the command", fault);
        // The builder is gone or has no use for this; leaving takes everything along.
        if !self.watch(control).map_err(watching)? {
            return Ok(ExitCode::FAILURE);
        }
        let report = self.reap().map_err(watching)?;
        let launched =
            wire::receive::<Launched>(&self.link).map_err(|errno| watching(errno.into()));
        // Without it the command's process has failed, and told so.
        let Some((launched, _)) = launched? else { return Ok(ExitCode::FAILURE) };
        if let Some(layer) = &launched.unclean {
            ca_bundle::clean_layer(&self.notes, layer)
                .map_err(|fault| ("take the extra certificates out of the layer", fault))?;
        }
        let mut timeline = launched.timeline;
        if timeline.is_wanted() {
            timeline.mark("command");
            let _ = wire::send(control, &Report::Times(timeline), &[]);
        }
        // If the builder is gone, so is the reader of this message.
        let _ = wire::send(control, &report, &[]);
        Ok(ExitCode::SUCCESS)
    }

    /// Follows orders until the command has ended; false when the builder is gone.
    fn watch(&self, control: &OwnedFd) -> Result<bool, Fault> {
        loop {
            let [has_ended, has_order] = self.wait(control)?;
            if has_order && !self.obey(control)? {
                return Ok(false);
            }
            if has_ended {
                return Ok(true);
            }
        }
    }

    /// Does what the builder asks for; false if the builder is gone.
    fn obey(&self, control: &OwnedFd) -> Result<bool, Fault> {
        match wire::receive::<Order>(control)? {
            None => return Ok(false),
            Some((Order::Kill, _)) => self.signal(Signal::KILL),
            Some((Order::Signal(number), _)) => {
                if let Some(signal) = Signal::from_named_raw(number) {
                    self.signal(signal);
                }
            }
        }
        Ok(true)
    }

    /// Sleeps until the command ends or an order comes.
    fn wait(&self, control: &OwnedFd) -> Result<[bool; 2], Fault> {
        let watched = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [watched(self.pidfd.as_fd()), watched(control.as_fd())];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(fds.map(|fd| fd.any().unwrap_or(false)))
    }

    /// Passes a signal on. The command may have ended already.
    fn signal(&self, signal: Signal) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }

    /// Reads how the command ended. By then the kernel has ended all that it had started.
    fn reap(&self) -> Result<Report, Fault> {
        let id = WaitId::PidFd(self.pidfd.as_fd());
        let status = rustix::io::retry_on_intr(|| {
            rustix::process::waitid(id.clone(), WaitIdOptions::EXITED)
        })?
        .ok_or(Errno::CHILD)?;
        let exit = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Signal(libc::SIGKILL),
        };
        Ok(Report::Ended { exit, usage: children_usage() })
    }
}

/// What the command used; the first process of a namespace reaps all others, so theirs is in it.
fn children_usage() -> StepUsage {
    let Ok(found) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return StepUsage::default() };
    let number = |value: libc::c_long| u64::try_from(value).unwrap_or_default();
    let micros = |time: TimeVal| number(time.tv_sec()) * 1_000_000 + number(time.tv_usec());
    StepUsage {
        peak_memory_bytes: number(found.max_rss()) * 1024,
        cpu_micros: micros(found.user_time()) + micros(found.system_time()),
        ..StepUsage::default()
    }
}
