//! Snapshots: one layer's files each, with the snapshot below.
//!
//! A snapshot is a directory in overlayfs upper form: a deleted entry is a character device 0:0, a
//! directory that hides those below carries the xattr `user.overlay.opaque`. Committed snapshots
//! never change. Nothing is mounted here: callers are handed paths.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::ChainId;
use crate::layout::{Layout, TempDir, publish, random_name};

/// Layers under one snapshot; overlayfs itself ends at 500 (measured).
const MAX_DEPTH: usize = 480;

/// The name of a snapshot: lowercase letters, digits and dashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(String);

/// A text that cannot name a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a snapshot")]
pub struct SnapshotIdError;

impl SnapshotId {
    /// Returns the name of the snapshot of a pulled image's layers up to and including `chain`.
    #[must_use]
    pub fn for_chain(chain: &ChainId) -> Self {
        Self(format!("c-{}", chain.0.hex()))
    }

    fn random() -> io::Result<Self> {
        Ok(Self(format!("b-{}", random_name()?)))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SnapshotId {
    type Err = SnapshotIdError;

    fn from_str(text: &str) -> Result<Self, SnapshotIdError> {
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let good = !text.is_empty() && text.len() <= 80 && text.bytes().all(is_name);
        good.then(|| Self(text.to_owned())).ok_or(SnapshotIdError)
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = SnapshotIdError;

    fn try_from(text: String) -> Result<Self, SnapshotIdError> {
        text.parse()
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.0
    }
}

/// A committed snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// The snapshot below.
    pub parent: Option<SnapshotId>,
    /// Its own files.
    pub upper: PathBuf,
}

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It, or one below it, is not there.
    #[error("snapshot `{id}` is missing from the store")]
    Missing {
        /// The one that is missing.
        id: SnapshotId,
    },
    /// The stack is deeper than overlayfs takes.
    #[error("more than {MAX_DEPTH} layers cannot be stacked")]
    TooDeep,
    /// The store failed.
    #[error("could not use a snapshot")]
    Io(#[from] io::Error),
}

/// The snapshots of one store.
#[derive(Clone, Debug)]
pub struct Snapshots {
    layout: Layout,
}

impl Snapshots {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout }
    }

    fn path(&self, id: &SnapshotId) -> PathBuf {
        self.layout.part("snapshots").join(id.as_str())
    }

    /// Makes an empty snapshot on top of `parent`.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Missing`] when the parent or one below it is gone.
    pub fn prepare(&self, parent: Option<&SnapshotId>) -> Result<ActiveSnapshot, SnapshotError> {
        let lowers = parent.map_or_else(|| Ok(Vec::new()), |parent| self.lowers(parent))?;
        let dir = self.layout.temp_dir()?;
        let made = dir.path().join("snapshot");
        fs::create_dir(&made)?;
        fs::write(made.join("parent"), parent.map_or("", SnapshotId::as_str))?;
        let upper = made.join("fs");
        fs::DirBuilder::new().mode(0o755).create(&upper)?;
        let work = dir.path().join("work");
        fs::create_dir(&work)?;
        let snapshots = self.clone();
        Ok(ActiveSnapshot {
            snapshots,
            _dir: dir,
            made,
            upper,
            work,
            lowers,
            parent: parent.cloned(),
        })
    }

    /// Looks a snapshot up.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn get(&self, id: &SnapshotId) -> io::Result<Option<Snapshot>> {
        let path = self.path(id);
        let parent = match fs::read_to_string(path.join("parent")) {
            Ok(text) if text.is_empty() => None,
            Ok(text) => match text.parse() {
                Ok(parent) => Some(parent),
                Err(SnapshotIdError) => return Ok(None),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Snapshot { id: id.clone(), parent, upper: path.join("fs") }))
    }

    /// Returns the snapshot and all below it, top first.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Missing`] when one of them is gone.
    pub fn chain(&self, id: &SnapshotId) -> Result<Vec<Snapshot>, SnapshotError> {
        let mut chain = Vec::new();
        let mut next = Some(id.clone());
        while let Some(id) = next.take() {
            if chain.len() == MAX_DEPTH {
                return Err(SnapshotError::TooDeep);
            }
            let snapshot = self.get(&id)?.ok_or(SnapshotError::Missing { id })?;
            next.clone_from(&snapshot.parent);
            chain.push(snapshot);
        }
        Ok(chain)
    }

    /// Returns the directories of the snapshot and all below it, top first: overlayfs's lowers.
    ///
    /// # Errors
    ///
    /// As [`Snapshots::chain`].
    pub fn lowers(&self, id: &SnapshotId) -> Result<Vec<PathBuf>, SnapshotError> {
        Ok(self.chain(id)?.into_iter().map(|snapshot| snapshot.upper).collect())
    }

    /// Remembers that `id` holds exactly the stack of layers that `chain` names.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn link_chain(&self, chain: &ChainId, id: &SnapshotId) -> io::Result<()> {
        self.layout.write(&self.layout.part("chains").join(chain.0.hex()), id.as_str().as_bytes())
    }

    /// Returns a snapshot with exactly the stack of layers that `chain` names.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn by_chain(&self, chain: &ChainId) -> io::Result<Option<SnapshotId>> {
        let pulled = SnapshotId::for_chain(chain);
        if self.chain(&pulled).is_ok() {
            return Ok(Some(pulled));
        }
        match fs::read_to_string(self.layout.part("chains").join(chain.0.hex())) {
            Ok(text) => Ok(text.parse::<SnapshotId>().ok().filter(|id| self.chain(id).is_ok())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists all snapshots.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list(&self) -> io::Result<Vec<Snapshot>> {
        let mut snapshots = Vec::new();
        for entry in fs::read_dir(self.layout.part("snapshots"))? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            snapshots.extend(self.get(&id)?);
        }
        Ok(snapshots)
    }

    /// Takes a snapshot away: its name at once, its files before this returns.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn remove(&self, id: &SnapshotId) -> io::Result<()> {
        let grave = self.layout.temp_dir()?;
        match fs::rename(self.path(id), grave.path().join("removed")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// A snapshot being written. Dropped without a commit it leaves nothing.
#[derive(Debug)]
pub struct ActiveSnapshot {
    snapshots: Snapshots,
    /// Holds everything until the commit, and the leftovers after it.
    _dir: TempDir,
    made: PathBuf,
    upper: PathBuf,
    work: PathBuf,
    lowers: Vec<PathBuf>,
    parent: Option<SnapshotId>,
}

impl ActiveSnapshot {
    /// The directory that takes the writes.
    #[must_use]
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// overlayfs's work directory, on the same filesystem.
    #[must_use]
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// The directories below, top first.
    #[must_use]
    pub fn lowers(&self) -> &[PathBuf] {
        &self.lowers
    }

    /// The snapshot below.
    #[must_use]
    pub fn parent(&self) -> Option<&SnapshotId> {
        self.parent.as_ref()
    }

    /// Gives the snapshot its name, a fresh one unless `id` is given. Where `id` is taken already
    /// the older one stays and this one is dropped: equal names hold equal files.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn commit(self, id: Option<SnapshotId>) -> io::Result<Snapshot> {
        let id = id.map_or_else(SnapshotId::random, Ok)?;
        let target = self.snapshots.path(&id);
        publish(&self.made, &target)?;
        Ok(Snapshot { id, parent: self.parent.clone(), upper: target.join("fs") })
    }
}
