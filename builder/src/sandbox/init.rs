//! The first process of the outer PID namespace: starts the command and waits for it.
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
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use super::ca_bundle;
use super::child::Child;
use super::error::Fault;
use super::run::Exit;
use super::spec::SandboxSpec;
use super::sys;
use super::wire::{self, Launch, Order, Report};
use crate::limits::StepUsage;

/// Runs the spec to its end, in `netns` if it has one, and reports it over `control`.
pub(super) fn run(
    control: &OwnedFd,
    netns: Option<OwnedFd>,
    launch: &Launch,
    mut spec: SandboxSpec,
) -> ExitCode {
    if !spec.ca_certs.is_empty() {
        ca_bundle::end_line(&mut spec.ca_certs);
        ca_bundle::fill_environment(&mut spec.env);
    }
    let running = match start(control, netns, launch, &spec) {
        Ok(Started::Command(code)) => return code,
        Ok(Started::Watch(running)) => running,
        Err((step, fault)) => {
            wire::send_failure(control, step, fault);
            return ExitCode::FAILURE;
        }
    };
    match running.watch(control, &spec) {
        Ok(Some(report)) => {
            // If the builder is gone, so is the reader of this message.
            let _ = wire::send(control, &report, &[]);
            ExitCode::SUCCESS
        }
        // The builder is gone; leaving takes everything along.
        Ok(None) => ExitCode::FAILURE,
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
}

fn start(
    control: &OwnedFd,
    netns: Option<OwnedFd>,
    launch: &Launch,
    spec: &SandboxSpec,
) -> Result<Started, (&'static str, Fault)> {
    let system = |errno: Errno| ("start the command", Fault::from(errno));
    let notes = rustix::fs::memfd_create("sandbox-notes", MemfdFlags::CLOEXEC).map_err(system)?;
    let fork = || {
        unshare(CloneFlags::CLONE_NEWPID)?;
        sys::fork()
    };
    let Some(pid) = fork().map_err(|errno| ("new PID namespace", Fault::from(errno)))? else {
        let mut child = Child::new(spec.clone(), notes);
        child.cgroups.clone_from(&launch.cgroups);
        child.netns = netns;
        (child.resolver, child.gateway) = (launch.resolver, launch.gateway);
        return Ok(Started::Command(child.run(control)));
    };
    let pid = Pid::from_raw(pid.as_raw()).expect("fork returns a process id above zero");
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(system)?;
    super::helper::forget_stdio().map_err(system)?;
    Ok(Started::Watch(Running { pidfd, notes }))
}

impl Running {
    /// Follows orders until the command has ended; `None` when the builder is gone.
    fn watch(
        self,
        control: &OwnedFd,
        spec: &SandboxSpec,
    ) -> Result<Option<Report>, (&'static str, Fault)> {
        let watching = |fault| ("watch the command", fault);
        loop {
            let [has_ended, has_order] = self.wait(control).map_err(watching)?;
            if has_order && !self.obey(control).map_err(watching)? {
                return Ok(None);
            }
            if has_ended {
                break;
            }
        }
        let report = self.reap().map_err(watching)?;
        if let Some(dirs) = spec.scratch.as_ref().filter(|_| !spec.ca_certs.is_empty()) {
            ca_bundle::clean_layer(&self.notes, &dirs.upper)
                .map_err(|fault| ("take the extra certificates out of the layer", fault))?;
        }
        Ok(Some(report))
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
