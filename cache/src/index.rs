//! Cache records: what is remembered of a result, by its key.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::DiffId;
use crate::key::{CacheKey, Component};
use crate::layout::Layout;
use crate::sealed;
use crate::snapshot::{SnapshotId, Snapshots};

/// What is remembered of one executed vertex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The key that it was executed for.
    pub key: CacheKey,
    /// Its files.
    pub snapshot: SnapshotId,
    /// Digest of its layer's tar.
    pub diff_id: DiffId,
    /// Size of its layer's tar in bytes.
    pub size: u64,
    /// When it was executed, in seconds since 1970.
    pub created: u64,
    /// How long that took, in milliseconds.
    pub duration_ms: u64,
    /// What the key was made of.
    pub components: Vec<Component>,
    /// The instruction, for people.
    pub step: String,
}

/// The records of one store.
#[derive(Clone, Debug)]
pub struct Index {
    layout: Layout,
    snapshots: Snapshots,
}

impl Index {
    pub(crate) fn new(layout: Layout, snapshots: Snapshots) -> Self {
        Self { layout, snapshots }
    }

    fn path(&self, key: &CacheKey) -> PathBuf {
        self.layout.part("index").join(key.hex())
    }

    /// Looks a key up. A damaged record, one of another key, and one whose snapshot is gone are
    /// misses.
    #[must_use]
    pub fn get(&self, key: &CacheKey) -> Option<Record> {
        let record: Record = match sealed::read(&self.path(key)) {
            Ok(record) => record?,
            Err(error) => {
                tracing::warn!(key = %key.short(), %error, "cache record cannot be read");
                return None;
            }
        };
        let usable =
            record.key == *key && matches!(self.snapshots.get(&record.snapshot), Ok(Some(_)));
        usable.then_some(record)
    }

    /// Remembers a result. What it names must be in the store, and synced.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn put(&self, record: &Record) -> io::Result<()> {
        sealed::write(&self.layout, &self.path(&record.key), record)
    }

    /// Forgets a result.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn remove(&self, key: &CacheKey) -> io::Result<()> {
        match fs::remove_file(self.path(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Lists all records that can be read.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(self.layout.part("index"))? {
            records.extend(sealed::read::<Record>(&entry?.path())?);
        }
        Ok(records)
    }
}
