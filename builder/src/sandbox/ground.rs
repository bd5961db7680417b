//! What all steps have alike, made before it is known what one of them runs: a mount namespace, and
//! in it memory, `/proc` and `/dev`, to be moved into the root when there is one.
//!
//! A mount namespace begins as a copy of the builder's and then stands still, so the builder takes
//! no helper whose copy is out of date ([`super::pool`]).

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::MountPropagationFlags;

use super::error::{At as _, Fault};
use super::mount::{DATA, attach, make_dir, open_dir, tmpfs};
use super::{dev, kernel_fs};

/// Memory that small things may take beside the files of the spec: stubs, `/etc/hosts`.
pub(super) const SCRATCH_BYTES: u64 = 64 << 20;

/// Every machine has this directory, and no step a use for it.
const PLACE: &str = "/proc/driver";

/// One thing done ahead.
type Step = fn(&mut Ground) -> Result<(), Fault>;

/// What is done ahead, in order. Each name is what the user reads when it fails.
const STEPS: [(&str, Step); 6] = [
    ("new namespaces", enter_namespaces),
    ("private mounts", make_mounts_private),
    ("scratch memory", mount_scratch),
    ("mount /dev", dev::make),
    ("mount /proc", kernel_fs::make_proc),
    ("masked paths", kernel_fs::mask_proc),
];

/// What was made.
#[derive(Debug, Default)]
pub(super) struct Ground {
    /// The mount namespace.
    pub(super) namespace: Option<OwnedFd>,
    scratch: Option<OwnedFd>,
    /// `/dev`, attached in the scratch memory.
    pub(super) dev: Option<OwnedFd>,
    /// Likewise.
    pub(super) proc: Option<OwnedFd>,
    /// `/proc/sys` as it is below what makes it read only.
    pub(super) sysctls: Option<OwnedFd>,
    /// The null device, and an empty directory: what hides files and directories.
    pub(super) covers: Option<(OwnedFd, OwnedFd)>,
}

impl Ground {
    /// Makes it, or tells which step failed.
    pub(super) fn make() -> Result<Self, (&'static str, Fault)> {
        let mut ground = Self::default();
        for (step, run) in STEPS {
            run(&mut ground).map_err(|fault| (step, fault))?;
        }
        Ok(ground)
    }

    pub(super) fn scratch(&self) -> &OwnedFd {
        self.scratch.as_ref().expect("`scratch memory` comes before what lies in it")
    }

    /// Attaches `mount` where it waits for its place in the root.
    pub(super) fn park(&self, mount: &OwnedFd, name: &str) -> Result<(), Fault> {
        attach(mount, make_dir(self.scratch(), name, 0o700)?)
    }
}

/// Enters new mount, IPC and UTS namespaces; the PID namespace is new already.
fn enter_namespaces(ground: &mut Ground) -> Result<(), Fault> {
    let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    unshare(flags)?;
    // While this machine's `/proc` is in sight.
    ground.namespace = Some(File::open("/proc/self/ns/mnt").at("/proc/self/ns/mnt")?.into());
    Ok(())
}

/// Keeps what happens to mounts here from the rest of the machine, and the other way round.
fn make_mounts_private(_: &mut Ground) -> Result<(), Fault> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", flags)?)
}

/// Mounts memory for what is made for this step alone.
///
/// It must be attached somewhere, in a namespace that nobody else sees; not on `/`, since what is
/// unmounted there is what was mounted last.
fn mount_scratch(ground: &mut Ground) -> Result<(), Fault> {
    // Not `noexec`: files of the spec may be programs, and a copy of a mount keeps its flags.
    let scratch = tmpfs("700", Some(SCRATCH_BYTES), DATA)?;
    attach(&scratch, open_dir(Path::new(PLACE))?)?;
    ground.scratch = Some(scratch);
    Ok(())
}
