//! A terminal for the command: a pseudoterminal of its own devpts, whose other end goes to the
//! builder.

use std::os::fd::AsFd as _;

use rustix::fs::{Mode, OFlags, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::child::Child;
use super::error::{At as _, Fault};
use super::spec::StdioMode;
use super::wire::{self, Report};

/// Makes the terminal the command's standard descriptors and its controlling terminal. It comes
/// after the session is new and the root is the command's; `/dev` is ours, so its names are.
pub(super) fn open_terminal(child: &mut Child) -> Result<(), Fault> {
    let StdioMode::Terminal { rows, columns, .. } = child.spec.stdio else { return Ok(()) };
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let builders = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty()).at("/dev/pts/ptmx")?;
    rustix::pty::unlockpt(&builders)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&builders, flags)?;
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&terminal, size)?;
    // Programs open their terminal by name, as the user that they are.
    rustix::fs::fchown(&terminal, Some(Uid::from_raw(child.spec.uid)), None)?;
    rustix::process::ioctl_tiocsctty(&terminal)?;
    rustix::stdio::dup2_stdin(&terminal)?;
    rustix::stdio::dup2_stdout(&terminal)?;
    rustix::stdio::dup2_stderr(&terminal)?;
    let control = child.control.as_ref().expect("a command with a terminal has a builder");
    wire::send(control, &Report::Terminal, &[builders.as_fd()])?;
    Ok(())
}
