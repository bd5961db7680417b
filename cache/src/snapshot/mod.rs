//! Snapshots: the files of one layer each, as the overlay's upper directory that a step left.
//!
//! ```text
//! prepare(parent) -> ActiveSnapshot --commit--> Snapshot --lowers--> mount of a later step
//! ```
//!
//! A commit does not wait for the disk. `meta.json` says under which boot of the machine the
//! snapshot was made; within that boot the page cache answers for the bytes, whatever became of
//! the process. [`Store::sync`](crate::Store::sync) seals it: syncfs(2), then `meta.json` without
//! the boot.
//!
//! Invariant: a snapshot that is neither sealed nor of this boot is not believed. It may lack
//! bytes that never reached the disk, so it counts as absent, and so does every record that names
//! it.
//!
//! Nothing here mounts: mounts are handed out as paths.

mod active;
mod id;
mod tree;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use crate::document::{self, Durability, Kind, Loaded};
use crate::error::{AtPath, Result, StoreError};
use crate::lease::{Handle, Held};
use crate::session::random_hex;

pub use active::ActiveSnapshot;
pub use id::{SnapshotId, SnapshotIdError};

/// Snapshots in one stack: far above what images have, so that damage cannot make us walk forever.
const MAX_CHAIN: usize = 1024;

/// A committed snapshot; it never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// What lies under it.
    pub parent: Option<SnapshotId>,
    /// Its own files, without its parent's: an overlay lower directory.
    pub fs: PathBuf,
}

/// What `meta.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) id: SnapshotId,
    pub(crate) parent: Option<SnapshotId>,
    /// The boot it was made under, until its bytes are known to be on the disk.
    boot: Option<String>,
}

/// The snapshots of a store.
#[derive(Clone, Debug)]
pub struct Snapshots {
    handle: Arc<Handle>,
    /// Parents of snapshots that were found whole and are held, so need not be looked at again.
    known: Arc<Mutex<HashMap<SnapshotId, Option<SnapshotId>>>>,
}

impl Snapshots {
    pub(crate) fn new(handle: Arc<Handle>) -> Self {
        Self { handle, known: Arc::default() }
    }

    /// Starts a snapshot on top of `parent`, or an empty one.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSnapshot`] when the parent or one below it is gone or damaged.
    pub fn prepare(&self, parent: Option<&SnapshotId>) -> Result<ActiveSnapshot> {
        ActiveSnapshot::create(self, parent)
    }

    /// Looks a snapshot up and keeps it and all below it from gc; `None` when it is absent or
    /// cannot be believed.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn get(&self, id: &SnapshotId) -> Result<Option<Snapshot>> {
        let whole = self.is_whole(id)?;
        let parent = whole.then(|| self.known().get(id).cloned()).flatten();
        Ok(parent.map(|parent| self.snapshot(id, parent.as_ref())))
    }

    /// Returns the directories of the whole stack, top first, as overlay's `lowerdir+` wants them.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSnapshot`] when one of them is gone or damaged.
    pub fn lowers(&self, id: &SnapshotId) -> Result<Vec<PathBuf>> {
        Ok(self.chain(id)?.iter().map(|id| self.fs(id)).collect())
    }

    /// Returns the ids of the whole stack, top first.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSnapshot`] when one of them is gone or damaged.
    pub fn chain(&self, id: &SnapshotId) -> Result<Vec<SnapshotId>> {
        let missing = || StoreError::NoSnapshot { id: id.clone() };
        if !self.is_whole(id)? {
            return Err(missing());
        }
        let known = self.known();
        let mut chain = vec![id.clone()];
        let mut top = id;
        while let Some(parent) = known.get(top).ok_or_else(missing)? {
            chain.push(parent.clone());
            top = parent;
        }
        Ok(chain)
    }

    /// Removes a snapshot; false when there was none.
    ///
    /// It is out of sight at once, its files are deleted in the background. What lies on top of it
    /// counts as absent from then on.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn remove(&self, id: &SnapshotId) -> Result<bool> {
        self.forget(id);
        self.handle.session.remove_later(&self.dir(id))
    }

    /// Looks for a snapshot and all below it, and keeps them from gc; false when a part is absent
    /// or cannot be believed.
    ///
    /// Afterwards they are in `known`, which always holds whole stacks.
    fn is_whole(&self, id: &SnapshotId) -> Result<bool> {
        if self.known().contains_key(id) {
            return Ok(true);
        }
        let no_gc = self.handle.no_gc()?;
        let mut new: Vec<(SnapshotId, Option<SnapshotId>)> = Vec::new();
        let mut next = Some(id.clone());
        while let Some(id) = next.take().filter(|id| !self.known().contains_key(id)) {
            if new.len() >= MAX_CHAIN {
                tracing::warn!(snapshot = %new[0].0, "the stack of a snapshot never ends");
                return Ok(false);
            }
            let Some(meta) = self.meta(&id)? else { return Ok(false) };
            next.clone_from(&meta.parent);
            new.push((id, meta.parent));
        }
        self.handle.hold(&no_gc, Held::Snapshot(id.clone()))?;
        self.known().extend(new);
        Ok(true)
    }

    /// Forgets a snapshot, and all that lie on it.
    fn forget(&self, id: &SnapshotId) {
        let mut known = self.known();
        let mut gone = vec![id.clone()];
        while let Some(id) = gone.pop() {
            known.remove(&id);
            let above = known.iter().filter(|(_, parent)| parent.as_ref() == Some(&id));
            gone.extend(above.map(|(above, _)| above.clone()));
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<SnapshotId, Option<SnapshotId>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads `meta.json`; a snapshot that cannot be believed is removed and `None`.
    pub(crate) fn meta(&self, id: &SnapshotId) -> Result<Option<Meta>> {
        let fault = match self.inspect(id)? {
            None => return Ok(None),
            Some(Ok(meta)) => {
                if meta.boot.is_some() {
                    self.handle.note_unsealed(id);
                }
                return Ok(Some(meta));
            }
            Some(Err(fault)) => fault,
        };
        tracing::warn!(snapshot = %id, fault, "a snapshot was removed: it counts as absent");
        self.remove(id)?;
        Ok(None)
    }

    /// Reads `meta.json`, or says why the snapshot cannot be believed; `None` when it is absent.
    pub(crate) fn inspect(&self, id: &SnapshotId) -> Result<Option<Result<Meta, &'static str>>> {
        let path = self.dir(id).join("meta.json");
        Ok(Some(match document::load::<Meta>(Kind::Snapshot, &path)? {
            Loaded::Whole(meta) if meta.id != *id => Err("its meta.json is another's"),
            Loaded::Whole(Meta { boot: Some(boot), .. }) if boot != this_boot() => {
                Err("the machine stopped before it was on the disk")
            }
            Loaded::Whole(meta) => Ok(meta),
            Loaded::Absent if !self.dir(id).exists() => return Ok(None),
            Loaded::Absent => Err("its meta.json is missing"),
            Loaded::Damaged(fault) => Err(fault),
        }))
    }

    /// Brings everything written so far to the disk with one syncfs(2), and writes down that it is
    /// there.
    ///
    /// After a write that failed nobody can tell which snapshot lacks it: all that were waiting go.
    pub(crate) fn sync(&self) -> Result<()> {
        let waiting = self.handle.take_unsealed();
        if let Err(error) = self.handle.session.flush() {
            for id in &waiting {
                self.remove(id)?;
            }
            return Err(error).at("sync", self.handle.layout.root());
        }
        let mut failed = Ok(());
        for id in &waiting {
            if let Err(error) = self.seal(id) {
                self.handle.note_unsealed(id);
                failed = Err(error);
            }
        }
        failed
    }

    /// Writes down that the bytes of `id` are on the disk.
    fn seal(&self, id: &SnapshotId) -> Result<()> {
        let _no_gc = self.handle.no_gc()?;
        let path = self.dir(id).join("meta.json");
        match document::load::<Meta>(Kind::Snapshot, &path)? {
            Loaded::Whole(meta) if meta.boot.is_some() => {
                let sealed = Meta { boot: None, ..meta };
                let session = &self.handle.session;
                document::replace(session, Kind::Snapshot, &path, &sealed, Durability::Later)
            }
            // Sealed by another process, or removed meanwhile.
            Loaded::Whole(_) | Loaded::Absent | Loaded::Damaged(_) => Ok(()),
        }
    }

    /// Returns the directory that holds all of a snapshot.
    pub(crate) fn dir(&self, id: &SnapshotId) -> PathBuf {
        self.handle.layout.snapshots().join(id.as_str())
    }

    fn fs(&self, id: &SnapshotId) -> PathBuf {
        self.dir(id).join("fs")
    }

    fn snapshot(&self, id: &SnapshotId, parent: Option<&SnapshotId>) -> Snapshot {
        Snapshot { id: id.clone(), parent: parent.cloned(), fs: self.fs(id) }
    }
}

/// Names this boot of the machine (random(4), `boot_id`).
fn this_boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        // Without /proc no other process believes what this one has not sealed, which is safe.
        let id = id.ok().filter(|id| !id.trim().is_empty()).or_else(|| random_hex().ok());
        id.unwrap_or_default().trim().to_owned()
    })
}
