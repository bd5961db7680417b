//! The re-executed process between builder and sandbox: small, single-threaded, tied to both.
//!
//! ```text
//! builder (many threads)
//!   `- helper            session of its own; ends with the builder's thread
//!        `- init         first process of an outer PID namespace; ends with the helper
//!             `- command first process of an inner PID namespace; ends with init
//! ```

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};

use super::error::Fault;
use super::wire::{self, Prepare};
use super::{init, network, sys};
use crate::userns;

/// Does the work of a re-executed helper.
///
/// The program's `main` calls this before anything else, above all before it starts a thread,
/// when its first argument is [`super::HELPER_ARG`].
#[must_use]
pub fn helper_main() -> ExitCode {
    if std::env::args_os().nth(2).is_some_and(|arg| arg == userns::MAP_IDS_ARG) {
        return userns::map_ids();
    }
    let task = std::env::args_os().nth(2);
    let Ok(control) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) else {
        return ExitCode::FAILURE;
    };
    if task.is_some_and(|task| task == network::JANITOR_ARG) {
        return network::run_janitor(&control);
    }
    match supervise(&control) {
        Ok(code) => code,
        Err(fault) => {
            wire::send_failure(&control, "start the helper", fault);
            ExitCode::FAILURE
        }
    }
}

fn supervise(control: &OwnedFd) -> Result<ExitCode, Fault> {
    die_with_parent()?;
    // Interrupts from a terminal are the builder's to act on.
    rustix::process::setsid()?;
    let Some((prepare, _)) = wire::receive::<Prepare>(control)? else {
        return Ok(ExitCode::FAILURE);
    };
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned())
        != Some(prepare.parent)
    {
        return Ok(ExitCode::FAILURE);
    }
    forget_stdio()?;
    unshare(CloneFlags::CLONE_NEWPID)?;
    let Some(init) = sys::fork()? else {
        die_with_parent()?;
        return Ok(init::run(control, &prepare));
    };
    let init = Pid::from_raw(init.as_raw()).expect("fork returns a process id above zero");
    rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(init), WaitOptions::empty()))?;
    Ok(ExitCode::SUCCESS)
}

/// Has the kernel kill this process when the thread that made it ends (prctl(2)).
fn die_with_parent() -> Result<(), Errno> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
}

/// Lets go of the standard descriptors: one of them is the builder's socket.
fn forget_stdio() -> Result<(), Errno> {
    let null = open_null()?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)
}

pub(super) fn open_null() -> Result<OwnedFd, Errno> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}
