//! A snapshot in the making: the overlay's upper and work directories of one step.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Meta, Snapshot, SnapshotId, Snapshots, this_boot};
use crate::document::{self, Kind};
use crate::error::{AtPath, Result, StoreError};
use crate::layout::make_dir;
use crate::lease::Held;

/// Mode of the root directory of an image without a base.
const ROOT_MODE: u32 = 0o755;

/// A snapshot that a step is writing; dropping it removes it.
#[derive(Debug)]
pub struct ActiveSnapshot {
    snapshots: Snapshots,
    /// Empty once committed.
    dir: PathBuf,
    upper: PathBuf,
    /// Once somebody asked for it.
    work: OnceLock<PathBuf>,
    lowers: Vec<PathBuf>,
    parent: Option<SnapshotId>,
}

impl ActiveSnapshot {
    pub(super) fn create(snapshots: &Snapshots, parent: Option<&SnapshotId>) -> Result<Self> {
        let lowers = match parent {
            Some(parent) => snapshots.lowers(parent)?,
            None => Vec::new(),
        };
        let dir = snapshots.handle.session.fresh("snapshot");
        let active = Self {
            snapshots: snapshots.clone(),
            upper: dir.join("fs"),
            work: OnceLock::new(),
            dir,
            lowers,
            parent: parent.cloned(),
        };
        for path in [&active.dir, &active.upper] {
            make_dir(path, false).at("create", path)?;
        }
        active.take_root_attributes().at("create", &active.upper)?;
        Ok(active)
    }

    /// Gives the upper directory mode and owner of the parent's root, which it will hide.
    fn take_root_attributes(&self) -> io::Result<()> {
        let mut mode = ROOT_MODE;
        if let Some(lower) = self.lowers.first() {
            let root = fs::symlink_metadata(lower)?;
            mode = root.mode() & 0o7777;
            chown(&self.upper, Some(root.uid()), Some(root.gid()))?;
        }
        fs::set_permissions(&self.upper, Permissions::from_mode(mode))
    }

    /// Returns the directory that takes the step's changes: the layer.
    #[must_use]
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// Makes the overlay's work directory, on the same filesystem, unless it is there; it is not kept.
    ///
    /// Apart from the layer, whose commit need not wait until it is deleted.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn work(&self) -> Result<&Path> {
        if let Some(work) = self.work.get() {
            return Ok(work);
        }
        let work = self.snapshots.handle.session.fresh("work");
        make_dir(&work, false).at("create", &work)?;
        Ok(self.work.get_or_init(|| work))
    }

    /// Returns the directories below, top first; empty for a snapshot from scratch.
    #[must_use]
    pub fn lowers(&self) -> &[PathBuf] {
        &self.lowers
    }

    /// Returns what lies under this snapshot.
    #[must_use]
    pub const fn parent(&self) -> Option<&SnapshotId> {
        self.parent.as_ref()
    }

    /// Turns what was written into a snapshot named `id`, or by chance, and keeps it from gc.
    ///
    /// Nobody may write to it any more. An existing snapshot of that name wins, and this one
    /// is dropped. The bytes need not be on the disk yet: see [`Store::sync`](crate::Store::sync).
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn commit(mut self, id: Option<SnapshotId>) -> Result<Snapshot> {
        let id = match id {
            Some(id) => id,
            None => SnapshotId::random().at("name", &self.dir)?,
        };
        let meta = Meta {
            id: id.clone(),
            parent: self.parent.clone(),
            boot: Some(this_boot().to_owned()),
        };
        let path = self.dir.join("meta.json");
        document::write_new(Kind::Snapshot, &path, &meta)?;
        // Once more when the existing one turned out damaged, and was removed by looking at it.
        for _ in 0..2 {
            if self.appear(&id)? {
                self.snapshots.known().insert(id.clone(), self.parent.clone());
                return Ok(self.snapshots.snapshot(&id, self.parent.as_ref()));
            }
            if let Some(existing) = self.snapshots.get(&id)? {
                return Ok(existing);
            }
        }
        Err(StoreError::NoSnapshot { id })
    }

    /// Renames the directory into place; false when the name is taken.
    fn appear(&mut self, id: &SnapshotId) -> Result<bool> {
        let handle = &self.snapshots.handle;
        let no_gc = handle.no_gc()?;
        handle.hold(&no_gc, Held::Snapshot(id.clone()))?;
        let target = self.snapshots.dir(id);
        match renameat_with(CWD, &self.dir, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.dir = PathBuf::new();
                handle.note_unsealed(id);
                Ok(true)
            }
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(error) => Err(error).at("write", &target),
        }
    }
}

impl Drop for ActiveSnapshot {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.snapshots.handle.session.discard(work);
        }
        if self.dir != Path::new("") {
            let dir = std::mem::take(&mut self.dir);
            self.snapshots.handle.session.discard(dir);
        }
    }
}
