//! One step while it runs: its output, its time, and the orders that its helper gets.

use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::console::Console;
use super::error::SandboxError;
use super::pool::Helper;
use super::run::{Control, Ended};
use super::spec::{SandboxSpec, StdioMode};
use super::timeline::Timeline;
use super::wire::{self, Launch, Order, Report};
use crate::progress::OutputStream;

/// How often the caller is asked whether to go on.
const CONTROL_INTERVAL: Duration = Duration::from_millis(20);

/// How long a cancelled step may take to end before its helper is killed outright.
const KILL_GRACE: Duration = Duration::from_millis(700);

/// Bytes read at once; a pipe holds as many.
const READ_BYTES: usize = 64 << 10;

/// A helper at work and what connects to it.
pub(super) struct RunningStep {
    pub(super) helper: Helper,
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
    /// The command's terminal, if it has one.
    console: Option<Console>,
    takes_input: bool,
    /// What it changes, where that is in memory.
    pub(super) changes: Option<OwnedFd>,
    /// What its processes noted.
    pub(super) times: Timeline,
    buffer: Box<[u8]>,
    /// When its time is over.
    deadline: Option<(Instant, Duration)>,
    is_late: bool,
    killed_at: Option<Instant>,
}

impl RunningStep {
    /// Tells `helper` what to run.
    pub(super) fn start(
        helper: Helper,
        spec: &SandboxSpec,
        launch: &Launch,
        netns: Option<BorrowedFd<'_>>,
    ) -> Result<Self, SandboxError> {
        let failed = |source| SandboxError::helper("instruct the sandbox's helper", source);
        let instruct = || -> io::Result<[Option<PipeReader>; 2]> {
            let memory = wire::write_spec(spec)?;
            let mut fds = vec![memory.as_fd()];
            let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
            let (first, second) = (io::pipe()?, io::pipe()?);
            match spec.stdio {
                StdioMode::Capture => fds.extend([first.1.as_fd(), second.1.as_fd()]),
                // A terminal takes their place.
                StdioMode::Inherit | StdioMode::InheritOutput | StdioMode::Terminal { .. } => {
                    fds.extend([stdout.as_fd(), stderr.as_fd()]);
                }
            }
            fds.extend(netns);
            if spec.stdio == StdioMode::Inherit {
                fds.push(stdin.as_fd());
            }
            wire::send(&helper.launch, launch, &fds)?;
            let is_ours = spec.stdio == StdioMode::Capture;
            Ok([first.0, second.0].map(|pipe| is_ours.then_some(pipe)))
        };
        let [stdout, stderr] = instruct().map_err(failed)?;
        let buffer = vec![0; READ_BYTES].into_boxed_slice();
        let deadline = spec.limits.timeout.map(|limit| (Instant::now() + limit, limit));
        let (is_late, killed_at) = (false, None);
        let (console, takes_input) =
            (None, matches!(spec.stdio, StdioMode::Terminal { takes_input: true, .. }));
        Ok(Self {
            helper,
            stdout,
            stderr,
            console,
            takes_input,
            changes: None,
            times: Timeline::default(),
            buffer,
            deadline,
            is_late,
            killed_at,
        })
    }

    pub(super) fn into_helper(self) -> Helper {
        self.helper
    }

    /// Reads output and passes orders on until the helper reports the end.
    pub(super) fn follow(
        &mut self,
        output: &mut dyn FnMut(OutputStream, &[u8]),
        control: &mut dyn FnMut() -> Control,
    ) -> Result<Ended, SandboxError> {
        let broken = |source: io::Error| SandboxError::helper("follow the step", source);
        let report = loop {
            match control() {
                Control::Continue => {}
                Control::Signal(number) => self.order(Order::Signal(number)),
                Control::Cancel => self.kill(),
            }
            if self.deadline.is_some_and(|(end, _)| Instant::now() >= end) {
                self.is_late |= self.killed_at.is_none();
                self.kill();
            }
            let [has_stdout, has_stderr, has_report] = self.wait().map_err(broken)?;
            if has_stdout {
                read_some(&mut self.stdout, &mut self.buffer, OutputStream::Stdout, output)
                    .map_err(broken)?;
            }
            if has_stderr {
                read_some(&mut self.stderr, &mut self.buffer, OutputStream::Stderr, output)
                    .map_err(broken)?;
            }
            if has_report {
                let received = wire::receive::<Report>(&self.helper.socket);
                match received.map_err(|errno| broken(errno.into()))? {
                    Some((Report::Terminal, fds)) => self.join_terminal(fds).map_err(broken)?,
                    Some((Report::Changes, fds)) => self.changes = fds.into_iter().next(),
                    Some((Report::Times(times), _)) => self.times.join(times),
                    received => break received.map(|(report, _)| report),
                }
            }
        };
        // All writers are gone, so what is left is in the pipes. Waiting for their end would trust
        // a step not to have handed its end to somebody outside.
        drain(&mut self.stdout, &mut self.buffer, OutputStream::Stdout, output).map_err(broken)?;
        drain(&mut self.stderr, &mut self.buffer, OutputStream::Stderr, output).map_err(broken)?;
        drop(self.console.take());
        match report {
            _ if self.killed_at.is_some() => Err(match self.deadline {
                Some((_, limit)) if self.is_late => SandboxError::TimedOut { limit },
                _ => SandboxError::Cancelled,
            }),
            None | Some(Report::Terminal | Report::Changes | Report::Times(_)) => {
                Err(SandboxError::Killed)
            }
            Some(Report::Failed { step, fault }) => Err(SandboxError::reported(step, fault)),
            Some(Report::Ended { exit, usage }) => Ok(Ended { exit, usage }),
        }
    }

    /// Waits for output, a report or the next time to ask the caller.
    fn wait(&self) -> io::Result<[bool; 3]> {
        let stdout = self.stdout.as_ref().map(AsFd::as_fd);
        let stderr = self.stderr.as_ref().map(AsFd::as_fd);
        let sources = [stdout, stderr, Some(self.helper.socket.as_fd())];
        let mut fds: Vec<PollFd<'_>> =
            sources.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timeout = PollTimeout::try_from(CONTROL_INTERVAL).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = fds
            .iter()
            .map(|fd| fd.revents().is_some_and(|events| !events.is_empty()))
            .collect::<Vec<_>>()
            .into_iter();
        Ok(sources.map(|source| source.is_some() && ready.next().unwrap_or(false)))
    }

    /// Joins the command's terminal, whose other end is among `fds`, to our standard streams.
    fn join_terminal(&mut self, fds: Vec<OwnedFd>) -> io::Result<()> {
        if let Some(command) = fds.into_iter().next() {
            self.console = Some(Console::start(command, self.takes_input)?);
        }
        Ok(())
    }

    fn order(&self, order: Order) {
        // A step that has ended takes no orders; its report is on its way.
        let _ = wire::send(&self.helper.socket, &order, &[]);
    }

    /// Ends the step: by order first, which ends it cleanly, then by killing the helper.
    fn kill(&mut self) {
        match self.killed_at {
            None => {
                self.killed_at = Some(Instant::now());
                self.order(Order::Kill);
            }
            Some(since) if since.elapsed() > KILL_GRACE => {
                self.helper.kill();
            }
            Some(_) => {}
        }
    }
}

/// Reads once from a pipe with something in it, and forgets it at its end.
fn read_some(
    pipe: &mut Option<impl io::Read>,
    buffer: &mut [u8],
    stream: OutputStream,
    output: &mut dyn FnMut(OutputStream, &[u8]),
) -> io::Result<usize> {
    let Some(source) = pipe else { return Ok(0) };
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) => {
                *pipe = None;
                return Ok(0);
            }
            Ok(length) => {
                output(stream, &buffer[..length]);
                return Ok(length);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Reads what is in a pipe, without waiting for more.
fn drain(
    pipe: &mut Option<impl io::Read + AsFd>,
    buffer: &mut [u8],
    stream: OutputStream,
    output: &mut dyn FnMut(OutputStream, &[u8]),
) -> io::Result<()> {
    if let Some(source) = pipe.as_ref() {
        let flags = rustix::fs::fcntl_getfl(source)?;
        rustix::fs::fcntl_setfl(source, flags | rustix::fs::OFlags::NONBLOCK)?;
    }
    loop {
        match read_some(pipe, buffer, stream, output) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
