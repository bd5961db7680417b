//! The process that becomes the command: a straight list of named steps, then execve.
//!
//! It is the first process of a new PID namespace and single-threaded, and stands on what was made
//! ahead ([`super::ground`]). A step that fails is
//! reported by its name; nothing is undone, since all that was made vanishes with the process.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use super::ca_bundle::CaPlaces;
use super::error::Fault;
use super::ground::Ground;
use super::root::{Layers, Places};
use super::source::Prepared;
use super::spec::SandboxSpec;
use super::timeline::Timeline;
use super::wire::{self, Report};
use super::{dev, etc, exec, identity, kernel_fs, namespace, root, terminal};

/// One thing done on the way to the command.
type Step = fn(&mut Child) -> Result<(), Fault>;

/// What the process does before it becomes the command, in order. Each name is what the user
/// reads when it fails.
const STEPS: [(&str, Step); 27] = [
    ("join the cgroups", namespace::join_more_cgroups),
    ("new namespaces", namespace::enter_namespaces),
    ("open directories", root::open_directories),
    ("scratch memory", root::grow_scratch),
    ("sources of mounts", root::prepare_mounts),
    ("mount points", root::find_mount_points),
    ("root filesystem", root::mount_root),
    ("mount /proc", kernel_fs::mount_proc),
    ("mount /dev", dev::mount_dev),
    ("mount /sys", kernel_fs::mount_sys),
    ("files in /etc", etc::mount_files),
    ("mounts of the step", root::attach_mounts),
    ("masked paths", kernel_fs::mask_sys),
    ("pivot_root", root::pivot),
    ("hostname", namespace::set_hostname),
    ("session", identity::start_session),
    ("resource limits", identity::limit_resources),
    ("terminal", terminal::open_terminal),
    ("working directory", identity::enter_directory),
    ("read-only root", root::protect),
    ("capability bounding set", identity::drop_bounding_set),
    ("no_new_privs", identity::refuse_new_privileges),
    ("seccomp filter", identity::filter_system_calls),
    ("user and groups", identity::become_user),
    ("capabilities", identity::drop_capabilities),
    ("close descriptors", identity::close_descriptors),
    ("execute the command", exec::execute),
];

/// What the steps know and hand on to each other.
#[derive(Debug)]
pub(super) struct Child {
    pub spec: SandboxSpec,
    /// What was made ahead.
    pub ground: Ground,
    /// Cgroups to enter beside those that it is in.
    pub cgroups: Vec<PathBuf>,
    /// The network namespace made for it.
    pub netns: Option<OwnedFd>,
    /// Where the command finds a resolver, if not where this machine does.
    pub resolver: Option<Ipv4Addr>,
    /// This machine's address as the command knows it.
    pub gateway: Option<Ipv4Addr>,
    /// Receives what must be cleaned from the layer afterwards.
    pub notes: OwnedFd,
    /// Whether the builder wants the directory of changes kept in memory.
    pub hands_out_changes: bool,
    /// Leads to the builder.
    pub control: Option<OwnedFd>,
    /// When the steps ended.
    pub timeline: Timeline,
    /// Leads to the first process of the outer PID namespace, which does not read it any more: what is
    /// sent there is let go of when that process ends.
    pub attic: Option<OwnedFd>,
    pub layers: Option<Layers>,
    pub prepared: Vec<Prepared>,
    pub places: Option<Places>,
    pub stub: Option<OwnedFd>,
    pub ca: Option<CaPlaces>,
    pub root: Option<OwnedFd>,
    pub sys: Option<OwnedFd>,
}

impl Child {
    pub(super) fn new(spec: SandboxSpec, ground: Ground, notes: OwnedFd) -> Self {
        Self {
            spec,
            ground,
            cgroups: Vec::new(),
            netns: None,
            resolver: None,
            gateway: None,
            notes,
            hands_out_changes: false,
            control: None,
            timeline: Timeline::default(),
            attic: None,
            layers: None,
            prepared: Vec::new(),
            places: None,
            stub: None,
            ca: None,
            root: None,
            sys: None,
        }
    }

    pub(super) fn layers(&self) -> &Layers {
        self.layers.as_ref().expect("`open directories` comes before what uses them")
    }

    pub(super) fn places(&self) -> &Places {
        self.places.as_ref().expect("`mount points` comes before the mounts")
    }

    pub(super) fn scratch(&self) -> &OwnedFd {
        self.ground.scratch()
    }

    pub(super) fn root(&self) -> &OwnedFd {
        self.root.as_ref().expect("`root filesystem` comes before what is mounted on it")
    }

    /// Does all steps; the last one does not return. A failure is told over `control`.
    pub(super) fn run(mut self, control: impl AsFd) -> ExitCode {
        for (index, (step, run)) in STEPS.into_iter().enumerate() {
            if index + 1 == STEPS.len() && self.timeline.is_wanted() {
                // A benchmark that misses them says so.
                let _ = wire::send(&control, &Report::Times(self.timeline.clone()), &[]);
            }
            if let Err(fault) = run(&mut self) {
                wire::send_failure(&control, step, fault);
                break;
            }
            self.timeline.mark(step);
        }
        ExitCode::FAILURE
    }
}
