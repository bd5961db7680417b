//! Giving new objects of a snapshot all that they have beside name and content.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, fchmod, fchown, fsetxattr,
    futimens,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::dir::{Xattrs, fd_metadata};
use super::metadata::{Metadata, Time};
use super::open_dir::PRIVATE;
use super::upper::{UpperError, failed};

/// What a new object is given beside its name and content.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    /// Permission bits, up to 0o7777.
    pub(crate) mode: u32,
    /// Owner and group; `None` leaves them to the kernel.
    pub(crate) owner: Option<(u32, u32)>,
    /// `None` is now.
    pub(crate) mtime: Option<Time>,
    /// Portable ones only.
    pub(crate) xattrs: Xattrs,
}

impl Attributes {
    /// A directory nobody described: 0755, root's.
    pub(crate) fn implied_dir() -> Self {
        Self { mode: 0o755, owner: Some((0, 0)), ..Self::default() }
    }

    pub(crate) fn of(metadata: &Metadata, xattrs: Xattrs) -> Self {
        let owner = Some((metadata.uid, metadata.gid));
        Self { mode: metadata.mode, owner, mtime: Some(metadata.mtime), xattrs }
    }
}

/// Who describes the objects of a snapshot; several threads may have it do so at once.
#[derive(Debug)]
pub(crate) struct Describer {
    /// Owners that this user namespace cannot express; root stands in for them.
    unmapped_owners: AtomicU64,
    /// Whose the files are that this process creates.
    creator: (u32, u32),
}

impl Describer {
    pub(super) fn new() -> Self {
        Self {
            unmapped_owners: AtomicU64::new(0),
            creator: (geteuid().as_raw(), getegid().as_raw()),
        }
    }

    /// Returns how many owners could not be set since this user namespace has no id for them.
    pub(crate) fn unmapped_owners(&self) -> u64 {
        self.unmapped_owners.load(Ordering::Relaxed)
    }

    /// Returns the mode to create a file with that will have `attributes`: theirs, as far as
    /// nobody gets more from it than from the file described.
    pub(crate) fn creation_mode(&self, attributes: &Attributes) -> u32 {
        if attributes.owner.is_none_or(|owner| owner == self.creator) {
            attributes.mode & 0o777
        } else {
            PRIVATE
        }
    }

    /// Gives a file, once written, time, owner, mode and attributes, as far as it does not have
    /// them; returns what it is then.
    pub(crate) fn describe_file(
        &self,
        file: &File,
        path: &[u8],
        attributes: &Attributes,
    ) -> Result<Metadata, UpperError> {
        if let Some(mtime) = attributes.mtime {
            futimens(file, &timestamps(mtime)).map_err(failed("set the time of", path))?;
        }
        let look = || fd_metadata(file).map_err(failed("look at", path));
        let made = look()?;
        let is_owned = attributes.owner.is_none_or(|owner| owner == (made.uid, made.gid));
        if is_owned && made.mode == attributes.mode && attributes.xattrs.is_empty() {
            return Ok(made);
        }
        self.describe(file, path, attributes)?;
        look()
    }

    /// Owner first, since changing it drops set-uid bits and capabilities (chown(2)).
    pub(super) fn describe(
        &self,
        fd: impl AsFd,
        path: &[u8],
        attributes: &Attributes,
    ) -> Result<(), UpperError> {
        if let Some((uid, gid)) = attributes.owner {
            let changed = fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            self.owned(changed, path)?;
        }
        let mode = Mode::from_raw_mode(attributes.mode);
        fchmod(&fd, mode).map_err(failed("change the mode of", path))?;
        for (name, value) in &attributes.xattrs {
            match fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty()) {
                // A file system without attributes, or no privilege for capabilities: the file is
                // worth more than its attribute, which other builders drop with a log line.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(error) => return Err(failed("set an attribute of", path)(error)),
            }
        }
        Ok(())
    }

    /// An owner without an id in this user namespace (`EINVAL`) is counted, not fatal: with a
    /// single mapped id there would be no image at all otherwise.
    pub(super) fn owned(
        &self,
        changed: rustix::io::Result<()>,
        path: &[u8],
    ) -> Result<(), UpperError> {
        match changed {
            Err(Errno::INVAL) => {
                self.unmapped_owners.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            other => other.map_err(failed("change the owner of", path)),
        }
    }
}

pub(super) fn timestamps(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    }
}
