//! A minimal `/dev` in memory: the harmless nodes of this machine, terminals, shared memory.
//!
//! The nodes are bind mounts, because a user namespace cannot make device nodes, and because all
//! else here is `nodev`: a node that a step makes itself cannot be opened.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags;

use super::beneath::open_exact;
use super::ca_bundle;
use super::child::Child;
use super::devices;
use super::error::{At as _, Fault};
use super::ground::Ground;
use super::mount::{
    DATA, KERNEL, READ_ONLY, attach, clone_of, filesystem, make_dir, make_file, tmpfs,
};
use super::source::Prepared;
use super::target::attach_at;
use crate::userns;

/// Names, and the numbers that they must have on this machine (Documentation/admin-guide/devices).
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Links as Docker makes them.
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Memory that `/dev` itself may take (Docker's).
const DEV_BYTES: u64 = 64 << 20;

/// Makes `/dev` with what every step has there.
pub(super) fn make(ground: &mut Ground) -> Result<(), Fault> {
    let dev = tmpfs("755", Some(DEV_BYTES), DATA)?;
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, &dev, name).at(name)?;
    }
    ground.park(&dev, "dev")?;
    let mut null = None;
    for (name, major, minor) in NODES {
        let node = open_node(name, major, minor).at(format_args!("/dev/{name}"))?;
        let bound = clone_of(&node, MountAttrFlags::MOUNT_ATTR_NOSUID).at(name)?;
        attach(bound, make_file(&dev, name, 0o666)?).at(name)?;
        if name == "null" {
            null = Some(node);
        }
    }
    attach(terminals()?, make_dir(&dev, "pts", 0o755)?)?;
    attach(filesystem("mqueue", &[], KERNEL)?, make_dir(&dev, "mqueue", 0o1777)?)?;
    make_dir(&dev, "shm", 0o755)?;
    let empty = tmpfs("555", Some(4096), KERNEL | READ_ONLY)?;
    // Attached, because to let go of a mount that is not waits for every processor.
    ground.park(&empty, "empty-mask")?;
    ground.covers = null.map(|null| (null, empty));
    ground.dev = Some(dev);
    Ok(())
}

/// Mounts `/dev`, and what this step has there.
pub(super) fn mount_dev(child: &mut Child) -> Result<(), Fault> {
    let dev = child.ground.dev.take().expect("`/dev` was made ahead");
    if let Some(ca) = &child.ca {
        ca.write_files(&make_dir(&dev, ca_bundle::DEV_DIR, 0o755)?, &child.spec.ca_certs)?;
    }
    devices::add(&dev, child.scratch(), &child.spec)?;
    let shm = tmpfs("1777", Some(child.spec.limits.shm()), KERNEL)?;
    attach(shm, open_exact(&dev, Path::new("shm"))?)?;
    let prepared = Prepared { mount: dev, is_dir: true };
    attach_at(child.root(), &child.places().dev.path, &prepared)
}

/// Mounts pseudoterminals of its own; group 5 is `tty` in every distribution's `/etc/group`.
fn terminals() -> Result<OwnedFd, Fault> {
    let mut options = vec![("ptmxmode", "0666"), ("mode", "0620")];
    if !userns::has_single_id() {
        options.push(("gid", "5"));
    }
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    filesystem("devpts", &options, attributes)
}

/// Opens a node of this machine and checks that it is what its name says.
fn open_node(name: &str, major: u32, minor: u32) -> Result<OwnedFd, Fault> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::open(Path::new("/dev").join(name), flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&node)?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_device || stat.st_rdev != rustix::fs::makedev(major, minor) {
        return Err(Fault::refused(format!(
            "/dev/{name} of this machine is not the device {major}:{minor}"
        )));
    }
    Ok(node)
}
