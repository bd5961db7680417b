//! The builder's side: starts the helper, reads output, passes orders on, waits for the end.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

use super::cgroup::{self, Place};
use super::error::SandboxError;
use super::forecast::Forecast;
use super::mount::clone_of;
use super::network::{self, Networks};
use super::pool::Pool;
use super::spec::{Network, SandboxSpec};
use super::step::RunningStep;
use super::timeline::Timeline;
use super::uppers::Uppers;
use super::wire::Launch;
use crate::error::causes;
use crate::limits::StepUsage;
use crate::progress::OutputStream;

/// First argument of the re-executed helper. Not for users: `main` hands over to
/// [`super::helper_main`] when it sees it.
pub const HELPER_ARG: &str = "__rbuild-sandbox";

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
    /// [`StdioMode::Capture`](super::StdioMode::Capture). `control` is asked many times a second what
    /// to do.
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
        let forecast = self.forecast.as_ref();
        let is_expected = forecast.is_some_and(|forecast| forecast.take_helper());
        let mut helper = self.helpers.take(is_expected)?;
        timeline.mark("helper");
        let cgroups = match &mut helper.cgroup {
            Some(cgroup) => cgroup.limit(&spec.limits)?,
            None => cgroup::refuse_limits(&spec.limits).map(|()| Vec::new())?,
        };
        timeline.mark("limits");
        let is_expected = forecast.is_some_and(|forecast| forecast.take_network(spec.network));
        let mut network = self.networks.take(spec.network, &spec.port_forwards, is_expected)?;
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
