//! Where the bytes of a layer can be had, by diff_id.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Digest};
use crate::layout::Layout;
use crate::sealed;
use crate::snapshot::SnapshotId;

/// A compressed form of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerBlob {
    /// Of the compressed bytes.
    pub digest: Digest,
    /// Compressed size in bytes.
    pub size: u64,
    /// As in a descriptor.
    pub media_type: String,
}

/// Where the bytes of one layer can be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The layer.
    pub diff_id: DiffId,
    /// A snapshot whose tar it is.
    pub snapshot: Option<SnapshotId>,
    /// Size of the tar in bytes, where known.
    pub tar_size: Option<u64>,
    /// Bytes of file content in it, where known: what people mean by a layer's size.
    #[serde(default)]
    pub content_size: Option<u64>,
    /// Compressed forms, in the store or to be fetched from `sources`.
    pub blobs: Vec<LayerBlob>,
    /// Repositories (`docker.io/library/node`) that have one of the blobs.
    pub sources: Vec<String>,
}

/// The layers of one store.
#[derive(Clone, Debug)]
pub struct Layers {
    layout: Layout,
}

impl Layers {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout }
    }

    fn path(&self, diff_id: &DiffId) -> PathBuf {
        self.layout.part("layers").join(diff_id.0.hex())
    }

    /// Looks a layer up; a damaged record is none.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn get(&self, diff_id: &DiffId) -> io::Result<Option<LayerRecord>> {
        let record: Option<LayerRecord> = sealed::read(&self.path(diff_id))?;
        Ok(record.filter(|record| record.diff_id == *diff_id))
    }

    /// Changes a layer's record, or makes it. Updates of several processes follow each other.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn update(
        &self,
        diff_id: &DiffId,
        change: impl FnOnce(&mut LayerRecord),
    ) -> io::Result<()> {
        let lock = File::open(self.layout.part("layers"))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        let mut record = self.get(diff_id)?.unwrap_or(LayerRecord {
            diff_id: *diff_id,
            snapshot: None,
            tar_size: None,
            content_size: None,
            blobs: Vec::new(),
            sources: Vec::new(),
        });
        let before = record.clone();
        change(&mut record);
        if record == before && self.path(diff_id).exists() {
            return Ok(());
        }
        sealed::write(&self.layout, &self.path(diff_id), &record)
    }

    /// Lists all records that can be read.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list(&self) -> io::Result<Vec<LayerRecord>> {
        let mut records = Vec::new();
        for entry in std::fs::read_dir(self.layout.part("layers"))? {
            records.extend(sealed::read::<LayerRecord>(&entry?.path())?);
        }
        Ok(records)
    }

    /// Forgets a layer.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn remove(&self, diff_id: &DiffId) -> io::Result<()> {
        match std::fs::remove_file(self.path(diff_id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
