//! One open directory, and what may be asked of it.
//!
//! Invariants: a path given here is relative and is resolved beneath the descriptor by `openat2`
//! without following any symlink, the last component's included. Nothing here blocks on a FIFO.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, fgetxattr, flistxattr, openat, openat2,
    readlinkat, statx,
};
use rustix::io::Errno;

use super::metadata::{Kind, Metadata, STATX_FIELDS};

/// Resolution that cannot leave the directory: no `..` above it, no symlink, no magic link.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// What marks a directory that hides those of its name below it; set for mounts with `userxattr`.
pub(crate) const OPAQUE: &str = "user.overlay.opaque";

/// What makes an empty file of mode 0 record a deletion (overlayfs.rst, "whiteouts and opaque
/// directories"): overlayfs itself, as the store's file system, refuses the device that does so
/// elsewhere. Such a snapshot is merged by us alone, never by a mount.
pub(crate) const WHITEOUT_MARK: &str = "user.overlay.whiteout";

/// Names and values of the attributes that travel with a file.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// One open directory.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    /// Opens a directory of the host that the caller trusts, such as one in the store.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: openat(rustix::fs::CWD, path, flags, Mode::empty())? })
    }

    /// Opens the directory `path` beneath this one; the empty path is the directory itself.
    pub(crate) fn open_dir(&self, path: &[u8]) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = if path.is_empty() { b"." } else { path };
        Ok(Self { fd: openat2(&self.fd, path, flags, Mode::empty(), BENEATH)? })
    }

    /// Opens the regular file `path` beneath this directory for reading. Anything else is refused
    /// with `InvalidInput`, and a FIFO does not block.
    pub(crate) fn open_file(&self, path: &[u8]) -> io::Result<(File, Metadata)> {
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = openat2(&self.fd, path, flags, Mode::empty(), BENEATH)?;
        let metadata = fd_metadata(&fd)?;
        if metadata.kind != Kind::File {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok((File::from(fd), metadata))
    }

    /// Describes this directory.
    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        fd_metadata(&self.fd)
    }

    /// Describes `name` in this directory, itself and not what it points to.
    pub(crate) fn metadata_of(&self, name: &[u8]) -> io::Result<Option<Metadata>> {
        match statx(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW, STATX_FIELDS) {
            Ok(stat) => Ok(Some(Metadata::from_statx(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// As [`Self::metadata_of`], in a snapshot: there a marked file is a deletion.
    pub(crate) fn layer_metadata_of(&self, name: &[u8]) -> io::Result<Option<Metadata>> {
        let Some(metadata) = self.metadata_of(name)? else { return Ok(None) };
        if metadata.may_be_marked() && is_marked(self.open_file(name)?.0)? {
            return Ok(Some(metadata.as_whiteout()));
        }
        Ok(Some(metadata))
    }

    /// Reads where the symlink `name` points to.
    pub(crate) fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(readlinkat(&self.fd, name, Vec::new())?.into_bytes())
    }

    /// Lists the names in this directory with their types, unsorted, without `.` and `..`.
    pub(crate) fn entries(&self) -> io::Result<Vec<(Vec<u8>, FileType)>> {
        // A descriptor of its own, since the position in a directory belongs to the open file.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(&self.fd, c".", flags, Mode::empty())?;
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut entries = Vec::new();
        let mut listing = RawDir::new(fd, &mut buffer);
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                entries.push((name.to_vec(), entry.file_type()));
            }
        }
        Ok(entries)
    }

    /// Whether the directory is marked to hide those of its name below it.
    pub(crate) fn is_opaque(&self) -> io::Result<bool> {
        let mut value = [0; 8];
        match fgetxattr(&self.fd, OPAQUE, &mut value) {
            Ok(length) => Ok(&value[..length] == b"y"),
            // A longer value is none that overlayfs writes.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Dir {
    /// Reads what a layer says of this directory beside its metadata: the attributes that belong
    /// into it, and whether it hides those of its name below it.
    pub(crate) fn layer_attributes(&self) -> io::Result<(Xattrs, bool)> {
        Ok((fd_xattrs(self)?, self.is_opaque()?))
    }
}

impl From<OwnedFd> for Dir {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

/// Whether an open file, which [`Metadata::may_be_marked`] says may be one, records a deletion.
pub(crate) fn is_marked(fd: impl AsFd) -> io::Result<bool> {
    match fgetxattr(fd, WHITEOUT_MARK, &mut [0; 8]) {
        Ok(_) | Err(Errno::RANGE) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Describes an open file.
pub(crate) fn fd_metadata(fd: impl AsFd) -> io::Result<Metadata> {
    Ok(Metadata::from_statx(&statx(fd, c"", AtFlags::EMPTY_PATH, STATX_FIELDS)?))
}

/// Reads the attributes of an open file that belong into a layer, sorted by name.
///
/// Only files and directories are asked: the kernel allows `user.*` on nothing else (xattr(7)),
/// and capabilities mean something on files only.
pub(crate) fn fd_xattrs(fd: impl AsFd) -> io::Result<Xattrs> {
    let mut xattrs = Vec::new();
    for name in list_names(&fd)?.split(|&byte| byte == 0).filter(|name| is_portable(name)) {
        if let Some(value) = read_value(&fd, name)? {
            xattrs.push((name.to_vec(), value));
        }
    }
    xattrs.sort();
    Ok(xattrs)
}

/// Whether an attribute travels with a file: capabilities and the user's own do; overlayfs's
/// bookkeeping, labels of the host's security modules and `trusted.*` do not.
pub(crate) fn is_portable(name: &[u8]) -> bool {
    name == b"security.capability"
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// Reads the names of all attributes, each followed by a zero.
fn list_names(fd: &impl AsFd) -> io::Result<Vec<u8>> {
    // Most files have none, and one call says so; the kernel's own limit is 64 KiB.
    let mut few = [0; 256];
    match flistxattr(fd, &mut few[..]) {
        Ok(length) => return Ok(few[..length].to_vec()),
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error.into()),
    }
    let mut names = vec![0; 64 * 1024];
    let length = flistxattr(fd, &mut names[..])?;
    names.truncate(length);
    Ok(names)
}

fn read_value(fd: &impl AsFd, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 64 * 1024];
    match fgetxattr(fd, name, &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
