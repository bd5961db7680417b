//! What is known of layers: which snapshot holds one, and in which compressed forms it exists.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Digest};
use crate::document::{self, Durability, Kind};
use crate::error::{AtPath, Result, found};
use crate::lease::{Handle, Held};
use crate::lock::FileLock;
use crate::snapshot::SnapshotId;

/// One form of a layer as a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerBlob {
    /// Digest of the blob's own, perhaps compressed, bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Says how it is compressed (OCI image-spec, layer.md).
    pub media_type: String,
    /// Whether it was seen to unpack to the layer. Else an image says so, which may lie: its blob
    /// must not stand for this layer in other images.
    #[serde(default)]
    pub checked: bool,
}

/// A form of a layer that was made here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerForm {
    /// The blob.
    pub blob: LayerBlob,
    /// The layer that the blob unpacks to, where making it changed the tar (eStargz).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<DiffId>,
    /// What descriptors of the blob must say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What is known of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The digest of its tar.
    pub diff_id: DiffId,
    /// A snapshot from which the tar can be made again.
    pub snapshot: Option<SnapshotId>,
    /// What stands for all later times when it is made, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<i64>,
    /// Size of the tar in bytes.
    pub tar_size: Option<u64>,
    /// Bytes of file content in it, where known: what people mean by a layer's size.
    #[serde(default)]
    pub content_size: Option<u64>,
    /// Forms in the content store, or that can be fetched from one of `sources`.
    pub blobs: Vec<LayerBlob>,
    /// `registry/repository` names from which the blobs can be fetched.
    pub sources: Vec<String>,
    /// Forms made here, by what made them (`zstd-3`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub forms: BTreeMap<String, LayerForm>,
}

impl LayerRecord {
    /// Notes a form of the layer; one that was checked once stays so.
    pub fn note(&mut self, blob: LayerBlob) {
        match self.blobs.iter_mut().find(|known| known.digest == blob.digest) {
            Some(known) => known.checked |= blob.checked,
            None => self.blobs.push(blob),
        }
    }

    const fn unknown(diff_id: DiffId) -> Self {
        Self {
            diff_id,
            snapshot: None,
            latest: None,
            tar_size: None,
            content_size: None,
            blobs: Vec::new(),
            sources: Vec::new(),
            forms: BTreeMap::new(),
        }
    }
}

/// The layers of a store.
#[derive(Clone, Debug)]
pub struct Layers {
    handle: Arc<Handle>,
}

impl Layers {
    pub(crate) const fn new(handle: Arc<Handle>) -> Self {
        Self { handle }
    }

    /// Looks a layer up and keeps it, with its snapshot and blobs, from gc.
    ///
    /// What it names may still be absent: ask the snapshots and the content.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io); a damaged record is a warning and `None`.
    pub fn get(&self, diff_id: &DiffId) -> Result<Option<LayerRecord>> {
        let no_gc = self.handle.no_gc()?;
        let record = load(&self.path(diff_id))?;
        if record.is_some() {
            self.handle.hold(&no_gc, Held::Layer(*diff_id))?;
        }
        Ok(record)
    }

    /// Changes what is known of a layer, or begins it, and returns the outcome.
    ///
    /// Changes by several processes at once follow each other; none is lost. `change` should be
    /// short, and must not use the store's layers itself.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn update(
        &self,
        diff_id: &DiffId,
        change: impl FnOnce(&mut LayerRecord),
    ) -> Result<LayerRecord> {
        let path = self.path(diff_id);
        let no_gc = self.handle.no_gc()?;
        let lock = self.handle.layout.layers().join(".lock");
        let _alone = FileLock::exclusive(&lock).at("lock", &lock)?;
        let before = load(&path)?;
        let mut after = before.clone().unwrap_or(LayerRecord::unknown(*diff_id));
        change(&mut after);
        after.diff_id = *diff_id;
        self.handle.hold(&no_gc, Held::Layer(*diff_id))?;
        if before.as_ref().is_none_or(|before| before.snapshot.is_none())
            && after.snapshot.is_some()
        {
            self.handle.budget().add(after.tar_size.unwrap_or_default());
        }
        if before.as_ref() != Some(&after) {
            let session = &self.handle.session;
            document::replace(session, Kind::Layer, &path, &after, Durability::Later)?;
        }
        Ok(after)
    }

    /// Lists all that is known, in no order that means anything; holds nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io); damaged records are warnings and left out.
    pub fn list(&self) -> Result<Vec<LayerRecord>> {
        let mut layers = Vec::new();
        for path in self.paths()? {
            layers.extend(load(&path)?);
        }
        Ok(layers)
    }

    /// Removes what is known of a layer; false when nothing was.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn remove(&self, diff_id: &DiffId) -> Result<bool> {
        let path = self.path(diff_id);
        Ok(found(fs::remove_file(&path)).at("remove", &path)?.is_some())
    }

    /// Returns the files of all layers.
    pub(crate) fn paths(&self) -> Result<Vec<PathBuf>> {
        let root = self.handle.layout.layers();
        let files = fs::read_dir(&root).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let paths = files.at("read", &root)?.into_iter().map(|file| file.path());
        Ok(paths.filter(|path| !path.ends_with(".lock")).collect())
    }

    pub(crate) fn path(&self, diff_id: &DiffId) -> PathBuf {
        self.handle.layout.layers().join(diff_id.0.hex())
    }
}

/// Makes what is known of a layer again where it is lost or damaged: a hit promises the layer.
///
/// Only the checksum is looked at, since every hit pays for this.
pub(crate) fn mend(
    handle: &Handle,
    diff_id: DiffId,
    snapshot: &SnapshotId,
    latest: Option<i64>,
    tar_size: u64,
) -> Result<()> {
    let path = handle.layout.layers().join(diff_id.0.hex());
    if document::is_whole(Kind::Layer, &path)? {
        return Ok(());
    }
    tracing::warn!(%diff_id, "what was known of a layer is lost, and was made again");
    let lock = handle.layout.layers().join(".lock");
    let _alone = FileLock::exclusive(&lock).at("lock", &lock)?;
    let layer = LayerRecord {
        snapshot: Some(snapshot.clone()),
        latest,
        tar_size: Some(tar_size),
        ..LayerRecord::unknown(diff_id)
    };
    document::replace(&handle.session, Kind::Layer, &path, &layer, Durability::Later)
}

/// Reads the layer at `path` if it is whole and is the one its name promises.
pub(crate) fn load(path: &Path) -> Result<Option<LayerRecord>> {
    let record: Option<LayerRecord> = document::load(Kind::Layer, path)?.or_warn(path);
    let name = path.file_name().and_then(|name| Digest::parse_hex(name.to_str()?).ok());
    Ok(record.filter(|record| Some(record.diff_id.0) == name))
}
