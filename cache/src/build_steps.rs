//! What is kept of a past build's steps, so that one of them can be entered.
//!
//! ```text
//! builds/<started>-<id>/
//!   steps       what each step was run with: its writer's business, without secrets
//!   failed      the snapshot of what the step that failed had left
//! ```
//!
//! The snapshot belongs to nothing but the file that names it, so it goes with the file: gc takes
//! both before the record itself, and of many builds that failed only the last ones keep theirs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::build_record::{Builds, is_running};
use crate::document::{self, Durability, Kind};
use crate::error::{AtPath, Result, found};
use crate::lease::{Handle, Held, held_by_all};
use crate::measure::snapshot_bytes;
use crate::snapshot::{SnapshotId, Snapshots};

const STEPS: &str = "steps";
const FAILED: &str = "failed";

/// Notes the steps of a build that runs.
#[derive(Clone, Debug)]
pub struct StepLog {
    id: String,
    dir: PathBuf,
    builds: Builds,
}

impl StepLog {
    pub(crate) const fn new(id: String, dir: PathBuf, builds: Builds) -> Self {
        Self { id, dir, builds }
    }

    /// Returns the id of the build.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Notes what the steps were run with.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn note<T: Serialize>(&self, steps: &T) -> Result<()> {
        let (session, path) = (&self.builds.handle().session, self.dir.join(STEPS));
        document::replace(session, Kind::Steps, &path, steps, Durability::Later)
    }

    /// Keeps what a step had left when it failed, a snapshot that nothing else names; of other
    /// builds that failed, all but the last ones let go of theirs, so that `count` keep one.
    ///
    /// All that was written so far reaches the disk before the name, and the name before this
    /// returns: somebody may look at it after a crash of the machine.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn keep_failed(&self, snapshot: &SnapshotId, count: usize) -> Result<()> {
        let handle = self.builds.handle();
        let (session, path) = (&handle.session, self.dir.join(FAILED));
        let bytes = snapshot_bytes(&handle.layout.snapshots().join(snapshot.as_str()));
        handle.budget().add(bytes.at("measure", &path)?);
        Snapshots::new(Arc::clone(handle)).sync()?;
        document::replace(session, Kind::Failed, &path, snapshot, Durability::Now)?;
        let mut kept = Vec::new();
        for dir in self.builds.dirs()? {
            if dir.join(FAILED).exists() && (dir == self.dir || !is_running(&dir)?) {
                kept.push(dir);
            }
        }
        let beyond = kept.len().saturating_sub(count);
        kept.iter().take(beyond).try_for_each(|dir| self.builds.let_go(dir))
    }
}

impl Builds {
    /// Returns what the steps of the build `id` were run with, as [`StepLog::note`] got it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn steps<T: DeserializeOwned>(&self, id: &str) -> Result<Option<T>> {
        let Some(dir) = self.dir(id)? else { return Ok(None) };
        let path = dir.join(STEPS);
        Ok(document::load(Kind::Steps, &path)?.or_warn(&path))
    }

    /// Returns what the step that failed in the build `id` had left, while it is kept.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn failed(&self, id: &str) -> Result<Option<SnapshotId>> {
        self.dir(id)?.map_or(Ok(None), |dir| failed(&dir))
    }

    /// Removes what a step of the build at `dir` left when it failed, unless it is being looked at:
    /// then it is garbage later.
    pub(crate) fn let_go(&self, dir: &Path) -> Result<()> {
        let Some(snapshot) = failed(dir)? else { return Ok(()) };
        let path = dir.join(FAILED);
        found(fs::remove_file(&path)).at("remove", &path)?;
        remove_unheld(self.handle(), &snapshot)
    }
}

/// Returns the file that names what a failed step left, where the build at `dir` has one.
pub(crate) fn failed_file(dir: &Path) -> PathBuf {
    dir.join(FAILED)
}

/// Returns what a failed step left.
pub(crate) fn failed(dir: &Path) -> Result<Option<SnapshotId>> {
    let path = failed_file(dir);
    Ok(document::load(Kind::Failed, &path)?.or_warn(&path))
}

fn remove_unheld(handle: &Arc<Handle>, snapshot: &SnapshotId) -> Result<()> {
    let alone = handle.alone()?;
    let held = held_by_all(&alone, &handle.layout)?;
    if !held.contains(&Held::Snapshot(snapshot.clone())) {
        Snapshots::new(Arc::clone(handle)).remove(snapshot)?;
    }
    Ok(())
}
