//! The builder's side: starts the helper, reads output, passes orders on, waits for the end.

use std::fs::File;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

use super::cgroup::{self, Place};
use super::console::Console;
use super::error::SandboxError;
use super::forecast::Forecast;
use super::mount::clone_of;
use super::network::{self, Networks};
use super::pool::{Helper, Pool};
use super::spec::{Network, SandboxSpec, StdioMode};
use super::timeline::Timeline;
use super::uppers::Uppers;
use super::wire::{self, Launch, Order, Report};
use crate::error::causes;
use crate::limits::StepUsage;
use crate::progress::OutputStream;

/// First argument of the re-executed helper. Not for users: `main` hands over to
/// [`super::helper_main`] when it sees it.
pub const HELPER_ARG: &str = "__rbuild-sandbox";

/// How often the caller is asked whether to go on.
const CONTROL_INTERVAL: Duration = Duration::from_millis(20);

/// How long a cancelled step may take to end before its helper is killed outright.
const KILL_GRACE: Duration = Duration::from_millis(700);

/// Bytes read at once; a pipe holds as many.
const READ_BYTES: usize = 64 << 10;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// The code that a shell reports: 128 and the number for signals.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }

    /// Whether the command did what it should.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

/// How a command ended, and what it used until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub exit: Exit,
    /// What it and all its processes used.
    pub usage: StepUsage,
}

impl Ended {
    /// As [`Exit::code`].
    #[must_use]
    pub fn code(self) -> i32 {
        self.exit.code()
    }

    /// Whether the command failed while processes of it were killed for lack of memory.
    #[must_use]
    pub fn is_out_of_memory(self) -> bool {
        !self.exit.is_success() && self.usage.oom_kills > 0
    }
}

/// What the caller wants of a running command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Nothing.
    Continue,
    /// Pass this signal on.
    Signal(i32),
    /// End it at once.
    Cancel,
}

/// Runs commands in sandboxes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sandbox {
    helpers: Arc<Pool>,
    networks: Arc<Networks>,
    /// Layers of steps that have ended, as long as they are mounted.
    uppers: Arc<Uppers>,
    /// Why the store's file system cannot hold overlays, once that was found out.
    overlay_fault: Arc<OnceLock<String>>,
    /// What is made ahead for whoever has this.
    forecast: Option<Arc<Forecast>>,
}

impl Sandbox {
    /// Prepares to run commands by re-executing this program, whose `main` must hand over to
    /// [`super::helper_main`]. Needs privilege over its mounts: root, or
    /// [`crate::enter_user_namespace`].
    ///
    /// # Errors
    ///
    /// [`SandboxError::Helper`] without that privilege.
    pub fn open() -> Result<Self, SandboxError> {
        let failed = |source| SandboxError::helper("find the sandbox's helper program", source);
        let running = File::open("/proc/self/exe").map_err(failed)?;
        // Not by the link: it leads into the mount namespace that this program was started in,
        // which a user namespace has left and cannot copy from.
        let path = std::env::current_exe().map_err(failed)?;
        let by_name = File::open(&path).map_err(failed)?;
        let identity = |file: &File| file.metadata().map(|found| (found.dev(), found.ino()));
        if identity(&running).map_err(failed)? != identity(&by_name).map_err(failed)? {
            let replaced = format!("`{}` was replaced since it was started", path.display());
            return Err(failed(io::Error::other(replaced)));
        }
        Self::with_file(&by_name)
    }

    /// As [`Sandbox::open`], with another program as helper.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Helper`] if it cannot be opened, or without privilege.
    pub fn with_program(program: &Path) -> Result<Self, SandboxError> {
        let file = File::open(program);
        let file = file
            .map_err(|source| SandboxError::helper("open the sandbox's helper program", source))?;
        Self::with_file(&file)
    }

    fn with_file(file: &File) -> Result<Self, SandboxError> {
        // On a read-only mount of its own, so that no step can write to it however it may come by
        // a reference (CVE-2019-5736).
        let program = clone_of(file, MountAttrFlags::MOUNT_ATTR_RDONLY).map_err(|fault| {
            let source = io::Error::from_raw_os_error(fault.errno());
            SandboxError::helper("put the sandbox's helper program on a read-only mount", source)
        })?;
        let cgroups = Place::find().map(Arc::new);
        if let Some(place) = &cgroups {
            cgroup::sweep(place);
        }
        let program = Arc::new(program);
        let networks = Networks::new(Arc::clone(&program));
        let helpers = Arc::new(Pool::open(program, cgroups)?);
        let (uppers, overlay_fault) = (Arc::default(), Arc::default());
        Ok(Self { helpers, networks, uppers, overlay_fault, forecast: None })
    }

    /// Returns why overlays cannot be written in the store, if that was found out.
    pub(crate) fn overlay_fault(&self) -> Option<&str> {
        self.overlay_fault.get().map(String::as_str)
    }

    /// Finds out whether overlays can be written in `dir`; why not is remembered.
    pub(crate) fn find_overlay_fault(&self, dir: &Path) -> Option<&str> {
        let fault = super::probe::overlays(dir).err()?;
        Some(self.overlay_fault.get_or_init(|| fault))
    }

    /// Waits until no overlay of a step is mounted on `layer` any more, so that others may mount it.
    pub(crate) fn settle(&self, layer: &Path) {
        self.uppers.wait([layer]);
    }

    /// Returns the same sandbox for a build that is going to run steps with these networks, in any
    /// order. What takes longest of them, and does not depend on them, is made ahead as long as this
    /// or a clone of it is there.
    #[must_use]
    pub fn for_steps(&self, networks: Vec<Network>) -> Self {
        let (helpers, made) = (Arc::clone(&self.helpers), Arc::clone(&self.networks));
        let forecast = Forecast::new(helpers, made, networks);
        Self { forecast: Some(Arc::new(forecast)), ..self.clone() }
    }

    /// Makes a private network and tells of what kind it is, or why there is none.
    pub(crate) fn try_network(&self) -> Result<String, String> {
        self.networks.attempt().map_err(|error| causes(&error).join(": "))
    }

    /// Runs `spec` to its end. Blocks.
    ///
    /// `output` receives what the command writes, exact and complete, as long as `spec.stdio` is
    /// [`StdioMode::Capture`]. `control` is asked many times a second what to do.
    ///
    /// When this returns, no process of the step is left, so nothing is written to its layer any
    /// more. Its mounts, which nobody sees, end soon after.
    ///
    /// # Errors
    ///
    /// Any [`SandboxError`]; a command that ran and failed is no error but an [`Exit`].
    /// [`SandboxError::TimedOut`] after `spec.limits.timeout`.
    pub fn run(
        &self,
        spec: &SandboxSpec,
        output: &mut dyn FnMut(OutputStream, &[u8]),
        control: &mut dyn FnMut() -> Control,
    ) -> Result<Ended, SandboxError> {
        self.run_keeping(spec, output, control, None, &mut Timeline::default())
    }

    /// As [`Sandbox::run`]; tells how long each part of it took, in order. For benchmarks.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::run`].
    pub fn run_timed(
        &self,
        spec: &SandboxSpec,
        output: &mut dyn FnMut(OutputStream, &[u8]),
        control: &mut dyn FnMut() -> Control,
    ) -> Result<(Ended, Vec<(String, Duration)>), SandboxError> {
        let mut timeline = Timeline::start();
        let ended = self.run_keeping(spec, output, control, None, &mut timeline)?;
        timeline.mark("clean-up");
        Ok((ended, timeline.parts()))
    }

    /// As [`Sandbox::run`], on a directory in memory in the place of `spec.scratch`, which goes to
    /// `changes`, in the form of an overlay's upper, whether or not the command succeeds. For file
    /// systems that cannot hold an upper.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::run`].
    pub(crate) fn run_in_memory(
        &self,
        spec: &SandboxSpec,
        output: &mut dyn FnMut(OutputStream, &[u8]),
        control: &mut dyn FnMut() -> Control,
        changes: &mut Option<OwnedFd>,
    ) -> Result<Ended, SandboxError> {
        let spec = SandboxSpec { scratch: None, ..spec.clone() };
        let untimed = &mut Timeline::default();
        self.run_keeping(&spec, output, control, Some(changes), untimed)
    }

    fn run_keeping(
        &self,
        spec: &SandboxSpec,
        output: &mut dyn FnMut(OutputStream, &[u8]),
        control: &mut dyn FnMut() -> Control,
        changes: Option<&mut Option<OwnedFd>>,
        timeline: &mut Timeline,
    ) -> Result<Ended, SandboxError> {
        if let Some(forecast) = &self.forecast {
            forecast.begin(spec.network);
        }
        let mut helper = self.helpers.take()?;
        timeline.mark("helper");
        let cgroups = match &mut helper.cgroup {
            Some(cgroup) => cgroup.limit(&spec.limits)?,
            None => cgroup::refuse_limits(&spec.limits).map(|()| Vec::new())?,
        };
        timeline.mark("limits");
        let mut network = self.networks.take(spec.network, &spec.port_forwards)?;
        timeline.mark("network");
        let adds_certs = !spec.ca_certs.is_empty();
        let launch = Launch {
            has_netns: network.is_some(),
            resolver: network.as_ref().and_then(|network| network.resolver),
            gateway: network::own_address(),
            hands_out_changes: changes.is_some(),
            cgroups,
            unclean: spec.scratch.as_ref().map(|dirs| dirs.upper.clone()).filter(|_| adds_certs),
            timeline: timeline.fork(),
        };
        let netns = network.as_ref().map(|network| network.netns.as_fd());
        self.uppers.wait(spec.layers());
        let mut step = RunningStep::start(helper, spec, &launch, netns)?;
        let followed = step.follow(output, control);
        timeline.mark("report");
        timeline.join(std::mem::take(&mut step.times));
        if let Some(changes) = changes {
            *changes = step.changes.take();
        }
        let mut ended = followed?;
        if let Some(cgroup) = &step.helper.cgroup {
            cgroup.read_usage(&mut ended.usage);
        }
        timeline.mark("usage");
        // The kernel has ended all processes of the step before its first, whose end was reported.
        if let Some(network) = &mut network {
            network.close_ports();
        }
        if let Some(dirs) = &spec.scratch {
            self.uppers.note(&dirs.upper, &step.helper.process);
        }
        self.helpers.retire(step.into_helper(), network);
        Ok(ended)
    }
}

/// A helper at work and what connects to it.
struct RunningStep {
    helper: Helper,
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
    /// The command's terminal, if it has one.
    console: Option<Console>,
    takes_input: bool,
    /// What it changes, where that is in memory.
    changes: Option<OwnedFd>,
    /// What its processes noted.
    times: Timeline,
    buffer: Box<[u8]>,
    /// When its time is over.
    deadline: Option<(Instant, Duration)>,
    is_late: bool,
    killed_at: Option<Instant>,
}

impl RunningStep {
    fn start(
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

    fn into_helper(self) -> Helper {
        self.helper
    }

    /// Reads output and passes orders on until the helper reports the end.
    fn follow(
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
