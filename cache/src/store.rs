//! The store as a whole: its parts, its size, its health, and what can go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::content::Content;
use crate::digest::{DiffId, Digest, HashingReader};
use crate::image::Images;
use crate::index::Index;
use crate::layer::Layers;
use crate::layout::{Layout, OpenError, TempDir};
use crate::snapshot::{SnapshotId, Snapshots};

/// Documents larger than this are not read when looking for what they refer to (bytes).
const DOCUMENT_LIMIT: u64 = 8 << 20;

/// One store. Cheap to clone. Any number of processes may have the same one open.
#[derive(Clone, Debug)]
pub struct Store {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    layout: Layout,
    content: Content,
    snapshots: Snapshots,
    index: Index,
    layers: Layers,
    images: Images,
    /// Shared while the store is open; the kernel drops it with the process.
    lock: File,
}

/// What a store holds, in bytes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Manifests, configs and layers as they were pulled.
    pub content: u64,
    /// Unpacked and built layers.
    pub snapshots: u64,
    /// Records, names and everything in the making.
    pub metadata: u64,
    /// Number of names.
    pub images: u64,
    /// Number of cache records.
    pub records: u64,
}

impl Usage {
    /// Bytes in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.content + self.snapshots + self.metadata
    }
}

/// What [`Store::prune`] may take.
#[derive(Clone, Copy, Debug, Default)]
pub struct PruneOptions {
    /// Take cache records too, not only what nothing refers to.
    pub all: bool,
    /// Say what would go, and leave it.
    pub dry_run: bool,
}

/// What [`Store::prune`] took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Snapshots, blobs and records.
    pub items: u64,
    /// On disk.
    pub bytes: u64,
}

/// Why nothing was pruned.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// A build or a transfer uses the store, here or in another process.
    #[error("the store is in use: try again when its builds have ended")]
    InUse,
    /// The store failed.
    #[error("could not prune the store")]
    Io(#[from] io::Error),
}

impl Store {
    /// Opens the store at `root`, making it (mode 0700) if there is none. Sweeps what dead
    /// processes left behind.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when the directory cannot be used, holds something else, or was written by a
    /// newer version.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let layout = Layout::open(root)?;
        let fault = |source| OpenError::Directory { path: root.to_owned(), source };
        let lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(layout.part("lock"))
            .map_err(fault)?;
        rustix::fs::flock(&lock, FlockOperation::LockShared).map_err(|e| fault(e.into()))?;
        layout.sweep();
        let snapshots = Snapshots::new(layout.clone());
        let parts = Parts {
            content: Content::new(layout.clone()),
            index: Index::new(layout.clone(), snapshots.clone()),
            layers: Layers::new(layout.clone()),
            images: Images::new(layout.clone()),
            snapshots,
            layout,
            lock,
        };
        Ok(Self { parts: Arc::new(parts) })
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.parts.layout.root()
    }

    /// Blobs.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.parts.content
    }

    /// Unpacked and built layers.
    #[must_use]
    pub fn snapshots(&self) -> &Snapshots {
        &self.parts.snapshots
    }

    /// Cache records.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.parts.index
    }

    /// Where layers can be had.
    #[must_use]
    pub fn layers(&self) -> &Layers {
        &self.parts.layers
    }

    /// Names.
    #[must_use]
    pub fn images(&self) -> &Images {
        &self.parts.images
    }

    /// Makes a directory on the store's filesystem that is gone when dropped, or with the process.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn temp_dir(&self) -> io::Result<TempDir> {
        self.parts.layout.temp_dir()
    }

    /// Makes everything written so far durable: one flush of the store's filesystem.
    ///
    /// # Errors
    ///
    /// When the filesystem reports lost writes.
    pub fn sync(&self) -> io::Result<()> {
        rustix::fs::syncfs(&self.parts.lock)?;
        Ok(())
    }

    /// Measures the store. Blocks counted once however many names they have.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn usage(&self) -> io::Result<Usage> {
        let mut seen = BTreeSet::new();
        let mut part = |name: &str| disk_bytes(&self.parts.layout.part(name), &mut seen);
        let content = part("content")?;
        let snapshots = part("snapshots")?;
        let all = disk_bytes(self.root(), &mut seen)?;
        Ok(Usage {
            content,
            snapshots,
            metadata: all,
            images: self.images().list()?.len() as u64,
            records: self.index().list()?.len() as u64,
        })
    }

    /// Deletes what nothing needs: with `all`, the cache too. What images refer to stays.
    ///
    /// # Errors
    ///
    /// [`PruneError::InUse`] while another process has the store open.
    pub fn prune(&self, options: PruneOptions) -> Result<Pruned, PruneError> {
        let lock = &self.parts.lock;
        rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| PruneError::InUse)?;
        let pruned = self.prune_alone(options);
        // Back to sharing: turning the lock down cannot fail.
        rustix::fs::flock(lock, FlockOperation::LockShared).map_err(io::Error::from)?;
        Ok(pruned?)
    }

    fn prune_alone(&self, options: PruneOptions) -> io::Result<Pruned> {
        let mut pruned = Pruned::default();
        let live = self.live(options.all)?;
        let mut seen = BTreeSet::new();
        for snapshot in self.snapshots().list()? {
            if !live.snapshots.contains(&snapshot.id) {
                pruned.items += 1;
                let path = snapshot.upper.parent().unwrap_or(&snapshot.upper);
                pruned.bytes += disk_bytes(path, &mut seen)?;
                if !options.dry_run {
                    self.snapshots().remove(&snapshot.id)?;
                }
            }
        }
        for blob in self.content().list()? {
            if !live.blobs.contains(&blob.digest) {
                pruned.items += 1;
                pruned.bytes += blob.size;
                if !options.dry_run {
                    self.content().remove(&blob.digest)?;
                }
            }
        }
        for record in self.index().list()? {
            if !live.snapshots.contains(&record.snapshot) || options.all {
                pruned.items += 1;
                if !options.dry_run {
                    self.index().remove(&record.key)?;
                }
            }
        }
        for layer in self.layers().list()? {
            if !live.layers.contains(&layer.diff_id) && !options.dry_run {
                self.layers().remove(&layer.diff_id)?;
            }
        }
        Ok(pruned)
    }

    /// Finds what images, and unless `all` the cache, refer to.
    fn live(&self, all: bool) -> io::Result<Live> {
        let mut live = Live::default();
        let layers: BTreeMap<DiffId, _> =
            self.layers().list()?.into_iter().map(|layer| (layer.diff_id, layer)).collect();
        for image in self.images().list()? {
            if all && image.reference.is_none() {
                continue;
            }
            live.blobs.extend([image.manifest.digest, image.config]);
            let Some(config) = self.content().read(&image.config, DOCUMENT_LIMIT)? else {
                continue;
            };
            let config: Config = serde_json::from_slice(&config).unwrap_or_default();
            live.layers.extend(config.rootfs.diff_ids.iter().copied().map(DiffId));
        }
        if !all {
            for record in self.index().list()? {
                live.layers.insert(record.diff_id);
                self.keep_chain(&record.snapshot, &mut live);
            }
        }
        for layer in live.layers.clone() {
            let Some(record) = layers.get(&layer) else { continue };
            live.blobs.extend(record.blobs.iter().map(|blob| blob.digest));
            if let Some(snapshot) = &record.snapshot {
                self.keep_chain(snapshot, &mut live);
            }
        }
        Ok(live)
    }

    fn keep_chain(&self, id: &SnapshotId, live: &mut Live) {
        // A broken chain keeps nothing: it can serve nobody.
        for snapshot in self.snapshots().chain(id).unwrap_or_default() {
            live.snapshots.insert(snapshot.id);
        }
    }

    /// Reads every blob and every record. Returns what is broken, in words; with `repair` it is
    /// deleted, so that the next build makes it again.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn check(&self, repair: bool) -> io::Result<Vec<String>> {
        let mut faults = Vec::new();
        for blob in self.content().list()? {
            let Some(file) = self.content().open(&blob.digest)? else { continue };
            let mut reader = HashingReader::new(file);
            io::copy(&mut reader, &mut io::sink())?;
            let (_, found, _) = reader.finish();
            if found != blob.digest {
                faults.push(format!("blob {} holds other bytes: {found}", blob.digest));
                if repair {
                    self.content().remove(&blob.digest)?;
                }
            }
        }
        for part in ["index", "layers", "images"] {
            for entry in fs::read_dir(self.parts.layout.part(part))? {
                let path = entry?.path();
                if crate::sealed::read::<serde_json::Value>(&path)?.is_none() {
                    faults.push(format!("{} is damaged", path.display()));
                    if repair {
                        fs::remove_file(&path)?;
                    }
                }
            }
        }
        for record in self.index().list()? {
            if let Err(error) = self.snapshots().chain(&record.snapshot) {
                faults.push(format!("cache record {} is of no use: {error}", record.key.short()));
                if repair {
                    self.index().remove(&record.key)?;
                }
            }
        }
        for image in self.images().list()? {
            for digest in [image.manifest.digest, image.config] {
                if !self.content().contains(&digest) {
                    let name = image.reference.clone().unwrap_or_else(|| image.config.short());
                    faults.push(format!("image {name} lacks {digest}"));
                    if repair {
                        self.images().remove(&image)?;
                    }
                }
            }
        }
        Ok(faults)
    }
}

/// What must stay.
#[derive(Debug, Default)]
struct Live {
    snapshots: BTreeSet<SnapshotId>,
    blobs: BTreeSet<Digest>,
    layers: BTreeSet<DiffId>,
}

/// The one part of a config that says what it refers to.
#[derive(Debug, Default, Deserialize)]
struct Config {
    #[serde(default)]
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

/// Adds up the blocks of a tree as `du` does; `seen` holds the inodes counted already.
fn disk_bytes(path: &Path, seen: &mut BTreeSet<(u64, u64)>) -> io::Result<u64> {
    let mut total = 0;
    let mut stack = vec![path.to_owned()];
    while let Some(path) = stack.pop() {
        // Files of other processes come and go while we look.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        total += metadata.blocks() * 512;
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).into_iter().flatten() {
                stack.push(entry?.path());
            }
        }
    }
    Ok(total)
}
