//! Mounts made with descriptors (`fsopen(2)`, `open_tree(2)`, `move_mount(2)`): what was checked is what
//! is used, and what is not attached yet vanishes with its descriptor.
//!
//! Invariant: every mount made here is `nodev`, save for the device nodes of [`super::dev`] and
//! pseudoterminals. A step may make device nodes (Docker's capabilities allow it) but open none.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    fspick, move_mount, open_tree,
};

use super::error::{At as _, Fault};
use super::sys;

/// `nosuid,nodev`: what holds data that a step or a user brings.
pub(super) const DATA: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// `nosuid,nodev,noexec`: what the kernel makes up.
pub(super) const KERNEL: MountAttrFlags = DATA.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// `ro`.
pub(super) const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// Opens a directory of this machine as a place, for neither reading nor writing.
pub(super) fn open_dir(path: &Path) -> Result<OwnedFd, Fault> {
    // A helper's working directory is not its builder's: a relative path would lead elsewhere.
    if !path.is_absolute() {
        return Err(rustix::io::Errno::INVAL).at(path.display());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).at(path.display())
}

/// Names what `fd` refers to as a path that leads nowhere else (`proc_pid_fd(5)`).
pub(super) fn path_of(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Makes a new filesystem of `kind`, attached nowhere yet. An option without value is a flag.
pub(super) fn filesystem(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Fault> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).at(kind)?;
    // What mount tables show as the device; by custom the kind.
    fsconfig_set_string(&context, "source", kind).at(kind)?;
    configure(&context, options).map_err(|fault| explain(&context, fault).at(kind))?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).at(kind)
}

fn configure(context: &OwnedFd, options: &[(&str, &str)]) -> Result<(), Fault> {
    for &(key, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(context, key).at(key)?;
        } else {
            fsconfig_set_string(context, key, value).at(format_args!("{key}={value}"))?;
        }
    }
    Ok(fsconfig_create(context)?)
}

/// Adds what the kernel wrote about a refused filesystem, which says more than its errno.
fn explain(context: &OwnedFd, fault: Fault) -> Fault {
    let mut line = [0; 512];
    match rustix::io::read(context, &mut line) {
        Ok(length) if length > 2 => {
            // Each message begins with its level and a space (`e overlay: ...`).
            fault.at(String::from_utf8_lossy(&line[2..length]).trim_end())
        }
        _ => fault,
    }
}

/// Makes an empty directory in memory; `size` in bytes bounds it.
pub(super) fn tmpfs(
    mode: &str,
    size: Option<u64>,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Fault> {
    let size = size.map(|bytes| bytes.to_string());
    let mut options = vec![("mode", mode)];
    options.extend(size.as_deref().map(|bytes| ("size", bytes)));
    filesystem("tmpfs", &options, attributes)
}

/// Changes the bound of a [`tmpfs`] to `size` in bytes.
pub(super) fn resize(memory: impl AsFd, size: u64) -> Result<(), Fault> {
    let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
    let context = fspick(memory, "", flags).at("tmpfs")?;
    fsconfig_set_string(&context, "size", size.to_string()).at("size")?;
    fsconfig_reconfigure(&context).at("tmpfs")
}

/// Makes an overlay of `lowers`, topmost first, attached nowhere yet. `writable` holds upper and
/// work; without it there must be two lowers or more.
///
/// Always `userxattr`, so that layers look the same whether root or a user made them, and
/// `volatile`: what must survive is synced once, by the commit. Layers are named by descriptor,
/// since option values end at 255 bytes. Needs Linux 6.5 (`lowerdir+`).
pub(super) fn overlay(
    lowers: &[BorrowedFd<'_>],
    writable: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
) -> Result<OwnedFd, Fault> {
    let lowers: Vec<String> = lowers.iter().map(path_of).collect();
    let writable = writable.map(|(upper, work)| (path_of(upper), path_of(work)));
    let mut options = vec![("userxattr", ""), ("index", "off")];
    options.extend(lowers.iter().map(|lower| ("lowerdir+", lower.as_str())));
    if let Some((upper, work)) = &writable {
        options.extend([("upperdir", upper.as_str()), ("workdir", work), ("volatile", "")]);
    }
    filesystem("overlay", &options, MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// Copies the mount of what `place` refers to, without what is mounted below it.
pub(super) fn clone_of(place: impl AsFd, attributes: MountAttrFlags) -> Result<OwnedFd, Fault> {
    clone_with(place, attributes, OpenTreeFlags::empty())
}

/// Copies the mount of what `place` refers to with all that is mounted below it.
pub(super) fn clone_of_all(place: impl AsFd, attributes: MountAttrFlags) -> Result<OwnedFd, Fault> {
    clone_with(place, attributes, OpenTreeFlags::AT_RECURSIVE)
}

fn clone_with(
    place: impl AsFd,
    attributes: MountAttrFlags,
    depth: OpenTreeFlags,
) -> Result<OwnedFd, Fault> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | depth;
    let clone = open_tree(place, "", flags)?;
    sys::set_mount_attributes(clone.as_fd(), attributes, !depth.is_empty())?;
    Ok(clone)
}

/// Attaches `mount` on what `target` refers to.
pub(super) fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), Fault> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// Makes the directory `name` in `parent` and opens it.
pub(super) fn make_dir(
    parent: impl AsFd,
    name: impl AsRef<OsStr>,
    mode: u32,
) -> Result<OwnedFd, Fault> {
    let name = name.as_ref();
    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode)).at(name.display())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&parent, name, flags, Mode::empty()).at(name.display())
}

/// Makes the file `name` in `parent`, which must not have one, and opens it for writing.
pub(super) fn make_file(
    parent: impl AsFd,
    name: impl AsRef<OsStr>,
    mode: u32,
) -> Result<OwnedFd, Fault> {
    let name = name.as_ref();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(mode)).at(name.display())?;
    // The mode given to open(2) is cut by the umask.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).at(name.display())?;
    Ok(file)
}
