//! Devices of this machine for steps that may have them.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::error::{At as _, Fault};
use super::mount::{attach, clone_of, make_dir, make_file, open_dir};
use super::spec::SandboxSpec;

/// What insecure steps have beside the usual nodes, where this machine has it: what filesystems in
/// files and in user space need (BuildKit gives the same).
const INSECURE: [&str; 10] = [
    "fuse",
    "loop-control",
    "loop0",
    "loop1",
    "loop2",
    "loop3",
    "loop4",
    "loop5",
    "loop6",
    "loop7",
];

/// Puts the spec's devices into `dev`.
pub(super) fn add(dev: &OwnedFd, spec: &SandboxSpec) -> Result<(), Fault> {
    let host = open_dir(Path::new("/dev"))?;
    for path in &spec.devices {
        let name = path.strip_prefix("/dev/").unwrap_or_default();
        match open_node(&host, name) {
            Ok(node) => add_node(dev, name, &node).at(path)?,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return Err(Fault::refused(format!("this machine has no device `{path}`")));
            }
            Err(Errno::NODEV | Errno::LOOP) => {
                return Err(Fault::refused(format!("`{path}` of this machine is no device")));
            }
            Err(errno) => return Err(errno).at(path),
        }
    }
    if spec.is_insecure {
        for name in
            INSECURE.iter().filter(|name| !spec.devices.iter().any(|it| it.ends_with(*name)))
        {
            if let Ok(node) = open_node(&host, name) {
                add_node(dev, name, &node).at(name)?;
            }
        }
    }
    Ok(())
}

/// Opens a node below the host's `/dev`; links are not followed.
fn open_node(host: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let node = super::beneath::open_exact(host, Path::new(name))?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&node)?.st_mode);
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    if is_device { Ok(node) } else { Err(Errno::NODEV) }
}

fn add_node(dev: &OwnedFd, name: &str, node: &OwnedFd) -> Result<(), Fault> {
    let path = Path::new(name);
    let mut dir = dev.try_clone()?;
    for part in path.parent().into_iter().flatten() {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        dir = match rustix::fs::openat(&dir, part, flags, Mode::empty()) {
            Err(Errno::NOENT) => make_dir(&dir, part, 0o755)?,
            found => found?,
        };
    }
    let file = match make_file(&dir, path.file_name().unwrap_or_default(), 0o666) {
        // One of the usual nodes.
        Err(fault) if fault.errno() == libc::EEXIST => return Ok(()),
        file => file?,
    };
    attach(clone_of(node, MountAttrFlags::MOUNT_ATTR_NOSUID)?, file)
}
