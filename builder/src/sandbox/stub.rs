//! Mount points that the image lacks, as one more layer in memory.
//!
//! Making them in the layer being built and removing them afterwards would mean to delete by path
//! after a step has had its way with the tree. A topmost lower layer that vanishes with the mount
//! namespace leaves nothing to delete.
//!
//! Directories that the image has are made again with their owner, mode, times and attributes,
//! because overlayfs takes those of a merged directory from its topmost layer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::error::{At as _, Fault};
use super::mount::{make_dir, make_file, path_of};
use super::view::{ImageView, Located};

/// Largest extended attribute value (xattr(7), `XATTR_SIZE_MAX`) and list of names.
const XATTR_BYTES: usize = 64 << 10;

/// The layer while it is made.
pub(super) struct StubLayer<'a> {
    view: &'a ImageView,
    top: OwnedFd,
    /// Directories so far, by path below the root.
    made: BTreeMap<PathBuf, OwnedFd>,
    /// Times of the image's directories, set at last: each new entry would change them.
    times: Vec<(PathBuf, Timestamps)>,
}

impl<'a> StubLayer<'a> {
    /// Begins with nothing in `top`, an empty directory in memory.
    pub(super) fn new(view: &'a ImageView, top: OwnedFd) -> Self {
        Self { view, top, made: BTreeMap::new(), times: Vec::new() }
    }

    /// Makes the directory at `located`, which the image lacks.
    pub(super) fn add_dir(&mut self, located: &Located) -> Result<(), Fault> {
        self.dir(&located.path, located.existing).map(drop)
    }

    /// Makes a file at `located` that holds `content`. Where the image has one there, it keeps
    /// its owner, mode and times.
    pub(super) fn add_file(&mut self, located: &Located, content: &[u8]) -> Result<(), Fault> {
        let name = located.path.file_name().ok_or(Errno::ISDIR)?;
        let parent = located.path.parent().unwrap_or(Path::new(""));
        let dir = self.dir(parent, located.existing)?;
        let mut file = File::from(match make_file(dir, name, 0o644) {
            // Asked for before, as a mount point.
            Err(fault) if fault.errno() == libc::EEXIST => return Ok(()),
            file => file?,
        });
        file.write_all(content)?;
        if located.kind.is_some() {
            let stat = rustix::fs::fstat(self.view.open_place(&located.path)?)?;
            copy_owner_and_mode(&stat, &file)?;
            rustix::fs::futimens(&file, &times(&stat))?;
        }
        Ok(())
    }

    /// Ends it: `None` if the image lacked nothing.
    pub(super) fn finish(mut self) -> Result<Option<OwnedFd>, Fault> {
        if self.view.open_place(Path::new("")).is_ok() {
            let top = self.top.try_clone()?;
            self.copy_metadata(Path::new(""), &top)?;
            self.made.insert(PathBuf::new(), top);
        }
        for (path, times) in &self.times {
            rustix::fs::utimensat(&self.made[path], "", times, AtFlags::EMPTY_PATH)?;
        }
        let is_empty = rustix::fs::Dir::read_from(&self.top)?
            .filter_map(Result::ok)
            .all(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."));
        Ok((!is_empty).then_some(self.top))
    }

    /// Makes the directory `path` with its parents; the first `existing` parts are the image's.
    fn dir(&mut self, path: &Path, existing: usize) -> Result<OwnedFd, Fault> {
        let mut dir = self.top.try_clone()?;
        let mut prefix = PathBuf::new();
        for (index, name) in path.iter().enumerate() {
            prefix.push(name);
            if let Some(made) = self.made.get(&prefix) {
                dir = made.try_clone()?;
                continue;
            }
            dir = make_dir(&dir, name, 0o755)?;
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))?;
            if index < existing {
                self.copy_metadata(&prefix, &dir)?;
            }
            self.made.insert(prefix.clone(), dir.try_clone()?);
        }
        Ok(dir)
    }

    /// Gives the stub of an image's directory what overlayfs will show of it.
    fn copy_metadata(&mut self, path: &Path, to: &OwnedFd) -> Result<(), Fault> {
        let place = self.view.open_place(path).at(path.display())?;
        let stat = rustix::fs::fstat(&place)?;
        copy_owner_and_mode(&stat, to).at(path.display())?;
        copy_xattrs(&path_of(&place), to).at(path.display())?;
        self.times.push((path.to_owned(), times(&stat)));
        Ok(())
    }
}

pub(super) fn copy_owner_and_mode(stat: &Stat, to: impl AsFd) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(&to, Some(uid), Some(gid))?;
    // After the owner: chown(2) clears set-id bits.
    rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))
}

fn times(stat: &Stat) -> Timestamps {
    let time =
        |tv_sec, tv_nsec: u64| Timespec { tv_sec, tv_nsec: tv_nsec.try_into().unwrap_or_default() };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Copies what a directory may carry into a layer: user attributes and access lists.
fn copy_xattrs(from: &str, to: &OwnedFd) -> Result<(), Errno> {
    let mut names = vec![0_u8; XATTR_BYTES];
    let length = match rustix::fs::listxattr(from, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        length => length?,
    };
    for name in names[..length].split(|byte| *byte == 0) {
        let is_ours = name.starts_with(b"user.overlay.");
        let is_kept = name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_");
        if !is_kept || is_ours {
            continue;
        }
        let mut value = vec![0_u8; XATTR_BYTES];
        let length = rustix::fs::getxattr(from, name, &mut value[..])?;
        match rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            // Memory of older kernels takes no user attributes; the image's own stay as they are
            // unless the directory is changed by the step.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
