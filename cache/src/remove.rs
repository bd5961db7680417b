//! Deletes a file tree that somebody else filled.
//!
//! Works through directory descriptors: no link is followed, no mount is crossed (openat2(2),
//! `RESOLVE_NO_XDEV`), and neither depth nor length of names costs more than a fixed number of
//! descriptors, since what lies too deep is moved up first.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, IFlags, Mode, OFlags, ResolveFlags, chmodat, fchmod, fstat,
    ioctl_getflags, ioctl_setflags, openat, openat2, renameat, unlinkat,
};
use rustix::io::Errno;

/// Levels walked by recursion; each costs a descriptor and a stack frame.
const MAX_DEPTH: usize = 64;

/// Names held in memory of one directory.
const BATCH: usize = 1024;

/// Deletes `path` and all that is below it; nothing there is success.
///
/// Directories without permissions are opened up first, and immutable or append-only flags are
/// cleared where the kernel lets us.
///
/// # Errors
///
/// What the kernel refused: `EXDEV` when something is mounted below, `EPERM` for another user's
/// files. What could be deleted before that is gone.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    remove_tree_until(path, &|| false)
}

/// As [`remove_tree`] until `is_over` says so: then it fails with `EINTR`, and what is left stays.
pub(crate) fn remove_tree_until(path: &Path, is_over: &dyn Fn() -> bool) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL.into());
    };
    let parent = if parent == Path::new("") { Path::new(".") } else { parent };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match openat(CWD, parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let name = c_name(name)?;
    match unlink(parent.as_fd(), &name) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(error) => return Err(error.into()),
    }
    let top = open_dir(parent.as_fd(), &name)?;
    let mut removal = Removal { top: top.as_fd(), moved: 0, is_over };
    removal.clear(top.as_fd(), 0)?;
    remove_dir(parent.as_fd(), &name)?;
    Ok(())
}

/// A tree that is being deleted.
struct Removal<'a> {
    top: BorrowedFd<'a>,
    moved: u64,
    is_over: &'a dyn Fn() -> bool,
}

impl Removal<'_> {
    /// Brings a directory that lies too deep up to the top of the tree.
    fn lift(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        loop {
            let lifted = format!(".rbuild-removed-{}", self.moved);
            self.moved += 1;
            match renameat(dir, name, self.top, lifted) {
                // A tree may hold this very name: rename(2) refuses what is not an empty directory.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                other => return other,
            }
        }
    }

    /// Empties the directory `dir`.
    fn clear(&mut self, dir: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
        loop {
            let names = some_names(dir)?;
            if names.is_empty() {
                return Ok(());
            }
            for name in names {
                if (self.is_over)() {
                    return Err(Errno::INTR);
                }
                if unlink(dir, &name)? {
                    continue;
                }
                // Opened first either way: moving a directory too needs permission to write to it.
                let child = open_dir(dir, &name)?;
                if depth >= MAX_DEPTH {
                    self.lift(dir, &name)?;
                    continue;
                }
                self.clear(child.as_fd(), depth + 1)?;
                remove_dir(dir, &name)?;
            }
        }
    }
}

/// Returns up to [`BATCH`] names of `dir`, from its beginning.
fn some_names(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
        if names.len() == BATCH {
            break;
        }
    }
    Ok(names)
}

/// Unlinks `name`; false when it is a directory.
fn unlink(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(Errno::PERM) => {
            thaw(dir);
            if let Ok(file) = open_plain(dir, name) {
                thaw(file.as_fd());
            }
            match unlinkat(dir, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => Ok(false),
                other => other.map(|()| true),
            }
        }
        Err(error) => Err(error),
    }
}

fn remove_dir(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Opens the directory `name`, and makes it readable and writable for us.
fn open_dir(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let child = match open_below(dir, name, OFlags::RDONLY | OFlags::DIRECTORY) {
        Err(Errno::ACCESS) => {
            let path = open_below(dir, name, OFlags::PATH | OFlags::DIRECTORY)?;
            let magic = format!("/proc/self/fd/{}", path.as_raw_fd());
            chmodat(CWD, magic, Mode::RWXU, AtFlags::empty())?;
            open_below(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)?
        }
        other => other?,
    };
    thaw(child.as_fd());
    let mode = Mode::from_raw_mode(fstat(&child)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        // Root needs no permission bits; for others the unlink that follows tells the failure.
        let _may_fail = fchmod(&child, Mode::RWXU);
    }
    Ok(child)
}

/// Opens a file whose flags are to be changed: never a device or FIFO, which might block.
fn open_plain(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let path = open_below(dir, name, OFlags::PATH)?;
    match FileType::from_raw_mode(fstat(&path)?.st_mode) {
        FileType::RegularFile | FileType::Directory => {
            open_below(dir, name, OFlags::RDONLY | OFlags::NONBLOCK)
        }
        _ => Err(Errno::INVAL),
    }
}

fn open_below(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Clears the flags of chattr(1) that forbid deletion; most file systems have none set.
fn thaw(file: BorrowedFd<'_>) {
    let frozen = IFlags::IMMUTABLE | IFlags::APPEND;
    let Ok(flags) = ioctl_getflags(file) else { return };
    if flags.intersects(frozen) {
        // A refusal shows in the unlink that follows.
        let _may_fail = ioctl_setflags(file, flags - frozen);
    }
}

fn c_name(name: &OsStr) -> io::Result<CString> {
    Ok(CString::new(name.as_encoded_bytes())?)
}
