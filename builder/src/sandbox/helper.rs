//! The re-executed process between builder and sandboxes: small, single-threaded, tied to both.
//!
//! ```text
//! builder (many threads)
//!   `- spawner           one; ends with the builder's thread
//!        `- init         one a step; first process of an outer PID namespace; ends with the spawner
//!             `- command first process of an inner PID namespace; ends with init
//! ```
//!
//! To fork the spawner costs a tenth of what executing this program costs.

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;

use super::error::Fault;
use super::wire::{self, Hello, Prepare, Spawned};
use super::{init, network, seccomp, sys};
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
    match spawn_all(control) {
        Ok(code) => code,
        // Its end is noticed, and there is nobody else to tell.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Makes the first process of a sandbox for each message of the builder, until that is gone.
fn spawn_all(builder: OwnedFd) -> Result<ExitCode, Fault> {
    die_with_parent()?;
    // Interrupts from a terminal are the builder's to act on.
    rustix::process::setsid()?;
    let Some((hello, _)) = wire::receive::<Hello>(&builder)? else {
        return Ok(ExitCode::FAILURE);
    };
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned())
        != Some(hello.parent)
    {
        return Ok(ExitCode::FAILURE);
    }
    forget_stdio()?;
    sys::reap_children_unasked()?;
    // Before the forks, so that no step waits for it.
    seccomp::program();
    while let Some((prepare, fds)) = wire::receive::<Prepare>(&builder)? {
        let [control, launch] = fds.try_into().map_err(|_| Errno::BADMSG)?;
        match sys::fork_into_pid_namespace() {
            Ok(None) => {
                // A builder that is gone by now has closed the other end of `control`.
                die_with_parent()?;
                drop(builder);
                sys::reset_signals();
                rustix::process::setsid()?;
                return Ok(init::run(&control, &launch, &prepare));
            }
            Ok(Some(process)) => wire::send(&builder, &Spawned::Here, &[process.as_fd()])?,
            Err(errno) => {
                let fault = Fault::from(errno).at("new PID namespace");
                wire::send(&builder, &Spawned::Refused(fault), &[])?;
            }
        }
    }
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
