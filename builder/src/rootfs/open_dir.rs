//! A directory of a snapshot being written.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fchmod, linkat, openat, unlinkat};
use rustix::io::Errno;

use super::dir::Dir;
use super::merged::{MergedDir, Node};
use super::metadata::Metadata;
use super::upper::{UpperError, failed};
use super::{RootError, join};

/// Directories nested deeper than this are not removed but refused; `PATH_MAX` allows no more.
const MAX_DEPTH: usize = 2048;

/// Mode of a file that nobody has described yet.
pub(super) const PRIVATE: u32 = 0o600;

/// A directory open for writing, with all that is in sight at its path.
#[derive(Clone, Debug)]
pub(crate) struct OpenDir {
    pub(crate) path: Vec<u8>,
    pub(super) dir: Arc<Dir>,
    pub(super) merged: MergedDir,
}

impl OpenDir {
    /// Finds what is in sight under `name`, in the upper or below.
    pub(crate) fn lookup(&self, name: &[u8]) -> Result<Option<Node>, UpperError> {
        let found = self.merged.lookup(name);
        Ok(found.map_err(|error| RootError::io(&join(&self.path, name), error))?)
    }

    /// Opens the regular file `name`; `node` is what [`Self::lookup`] found.
    pub(crate) fn open_file(
        &self,
        name: &[u8],
        node: &Node,
    ) -> Result<(File, Metadata), UpperError> {
        let opened = self.merged.open_file(name, node);
        Ok(opened.map_err(|error| RootError::io(&join(&self.path, name), error))?)
    }

    /// Finds what the upper itself holds under `name`, a whiteout included.
    pub(crate) fn in_upper(&self, name: &[u8]) -> Result<Option<Metadata>, UpperError> {
        self.dir.layer_metadata_of(name).map_err(failed("look at", &join(&self.path, name)))
    }

    /// Opens the directory `name`, which the upper has, with what the lowers have of it.
    pub(super) fn open(&self, name: &[u8]) -> Result<Self, UpperError> {
        let path = join(&self.path, name);
        let opened = self.dir.open_dir(name).and_then(|dir| {
            let merged = self.merged.open_dir(name)?.ok_or(io::ErrorKind::NotFound)?;
            Ok((Arc::new(dir), merged))
        });
        let (dir, merged) = opened.map_err(failed("open", &path))?;
        Ok(Self { path, dir, merged })
    }

    /// Returns the directory of the upper.
    pub(crate) fn upper(&self) -> &Arc<Dir> {
        &self.dir
    }

    /// Whether the lowers have nothing in sight here.
    pub(crate) fn is_new(&self) -> bool {
        self.merged.is_one_layer()
    }

    /// Creates the empty file `name`, 0600 until it is described.
    pub(crate) fn create_file(&self, name: &[u8]) -> Result<File, UpperError> {
        self.create(name, PRIVATE).map_err(failed("create", &join(&self.path, name)))
    }

    /// Creates the empty file `name` with at most the permissions `mode`; `None` where the upper
    /// has something of that name.
    pub(crate) fn create_if_absent(
        &self,
        name: &[u8],
        mode: u32,
    ) -> Result<Option<File>, UpperError> {
        match self.create(name, mode) {
            Err(Errno::EXIST) => Ok(None),
            created => Ok(Some(created.map_err(failed("create", &join(&self.path, name)))?)),
        }
    }

    fn create(&self, name: &[u8], mode: u32) -> rustix::io::Result<File> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.dir, name, flags, Mode::from_raw_mode(mode)).map(File::from)
    }

    /// Gives the object `from_name` of `from`, which the upper has, a second name.
    pub(crate) fn hard_link(
        &self,
        name: &[u8],
        from: &Self,
        from_name: &[u8],
    ) -> Result<(), UpperError> {
        linkat(&from.dir, from_name, &self.dir, name, AtFlags::empty())
            .map_err(failed("link", &join(&self.path, name)))
    }

    /// Changes the directory's mode and nothing else.
    pub(crate) fn chmod(&self, mode: u32) -> Result<(), UpperError> {
        let mode = Mode::from_raw_mode(mode);
        fchmod(&self.dir, mode).map_err(failed("change the mode of", &self.path))
    }

    /// Removes `name` from the upper, a directory with its content.
    pub(super) fn remove(&self, name: &[u8], metadata: &Metadata) -> Result<(), UpperError> {
        let removed = if metadata.is_dir() {
            remove_dir(&self.dir, name, 0)
        } else {
            unlinkat(&self.dir, name, AtFlags::empty()).map_err(io::Error::from)
        };
        removed.map_err(failed("remove", &join(&self.path, name)))
    }
}

fn remove_dir(parent: &Dir, name: &[u8], depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let dir = parent.open_dir(name)?;
    for (child, file_type) in dir.entries()? {
        let is_dir = match file_type {
            FileType::Unknown => dir.metadata_of(&child)?.is_some_and(|child| child.is_dir()),
            known => known == FileType::Directory,
        };
        if is_dir {
            remove_dir(&dir, &child, depth + 1)?;
        } else {
            unlinkat(&dir, &*child, AtFlags::empty())?;
        }
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    Ok(())
}
