//! The store: one handle on everything.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::build_record::Builds;
use crate::cache_mount::{CacheMount, Sharing};
use crate::check::{self, CheckReport};
use crate::content::Content;
use crate::digest::Digest;
use crate::error::{Result, StoreError};
use crate::flight::{self, Flight};
use crate::gc::{self, GcPolicy, Item, PruneOptions, Pruned, Usage};
use crate::image::Images;
use crate::index::Index;
use crate::key::CacheKey;
use crate::layer::Layers;
use crate::layout::{Layout, OpenError};
use crate::lease::Handle;
use crate::session::{Session, TempDir};
use crate::snapshot::Snapshots;
use crate::stat_cache::StatCache;
use crate::trail::Trails;

/// A store of blobs, snapshots, cache records and images; clones are the same handle.
///
/// Any number of processes and threads may have handles of one store. Whatever is looked up or
/// made through a handle is kept from gc until its last clone is dropped, so a long-lived process
/// takes a [`Store::lease`] for each build.
#[derive(Clone, Debug)]
pub struct Store {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    content: Content,
    snapshots: Snapshots,
    index: Index,
    layers: Layers,
    images: Images,
    trails: Trails,
    builds: Builds,
    handle: Arc<Handle>,
}

impl Store {
    /// Opens the store at `root`, or makes one, and clears away what dead processes left.
    ///
    /// # Errors
    ///
    /// [`OpenError::Newer`] for a store of a later version, [`OpenError::NotAStore`] for a
    /// directory of something else, [`OpenError::Io`] when the file system refuses.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io { root: root.to_owned(), source };
        let layout = Layout::establish(root)?;
        let session = Arc::new(Session::start(&layout).map_err(failed)?);
        let handle = Handle::new(layout, session);
        let handle = handle.map_err(|error| failed(io::Error::other(error)))?;
        Ok(Self::from_handle(handle))
    }

    /// Returns a new handle: what is done through it is kept from gc until it is dropped.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn lease(&self) -> Result<Self> {
        Ok(Self::from_handle(self.parts.handle.lease()?))
    }

    fn from_handle(handle: Handle) -> Self {
        let handle = Arc::new(handle);
        let content = Content::new(Arc::clone(&handle));
        let snapshots = Snapshots::new(Arc::clone(&handle));
        let parts = Parts {
            index: Index::new(Arc::clone(&handle), snapshots.clone()),
            layers: Layers::new(Arc::clone(&handle)),
            images: Images::new(Arc::clone(&handle), content.clone(), snapshots.clone()),
            trails: Trails::new(Arc::clone(&handle)),
            builds: Builds::new(Arc::clone(&handle)),
            content,
            snapshots,
            handle,
        };
        Self { parts: Arc::new(parts) }
    }

    /// Returns the directory of the store, absolute and without links.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.parts.handle.layout.root()
    }

    /// Returns the blobs.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.parts.content
    }

    /// Returns the snapshots.
    #[must_use]
    pub fn snapshots(&self) -> &Snapshots {
        &self.parts.snapshots
    }

    /// Returns the cache records.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.parts.index
    }

    /// Returns what is known of layers.
    #[must_use]
    pub fn layers(&self) -> &Layers {
        &self.parts.layers
    }

    /// Returns the images.
    #[must_use]
    pub fn images(&self) -> &Images {
        &self.parts.images
    }

    /// Returns what the last builds looked up.
    #[must_use]
    pub fn trails(&self) -> &Trails {
        &self.parts.trails
    }

    /// Returns the past builds.
    #[must_use]
    pub fn builds(&self) -> &Builds {
        &self.parts.builds
    }

    /// Takes the right to execute the step of `key`; `None` while somebody else has it.
    ///
    /// Whoever gets it looks the key up once more: the one before may have stored its record.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn try_flight(&self, key: &CacheKey) -> Result<Option<Flight>> {
        flight::take(&self.parts.handle.layout.flights(), key)
    }

    /// Loads what is known of the files of the context `dir`, an absolute path.
    #[must_use]
    pub fn stat_cache(&self, dir: &Path) -> StatCache {
        StatCache::load(&self.stat_path(dir))
    }

    /// Keeps what `cache` learnt of the files of the context `dir`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn save_stat_cache(&self, dir: &Path, cache: &StatCache) -> Result<()> {
        cache.save(&self.parts.handle.session, &self.stat_path(dir))
    }

    fn stat_path(&self, dir: &Path) -> PathBuf {
        let name = Digest::of(dir.as_os_str().as_encoded_bytes());
        self.parts.handle.layout.stat().join(name.hex())
    }

    /// Makes a directory for something in the making, removed when the result is dropped.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn temp_dir(&self) -> Result<TempDir> {
        TempDir::create(&self.parts.handle.session)
    }

    /// Takes the cache directory named `id`, any text; `None` when other steps have it now.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn cache_mount(&self, id: &str, sharing: Sharing) -> Result<Option<CacheMount>> {
        self.cache_mount_with(id, sharing, |_| Ok(()))
    }

    /// As [`Store::cache_mount`]; a new directory appears with what `fill` puts into it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`], and those of `fill`.
    pub fn cache_mount_with<E: From<StoreError>>(
        &self,
        id: &str,
        sharing: Sharing,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Option<CacheMount>, E> {
        CacheMount::take(&self.parts.handle, id, sharing, fill)
    }

    /// Takes the directory that keeps what was fetched from `name`, a URL without credentials;
    /// `None` when somebody else has it now. `kind` tells those of one name apart.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn fetched(&self, kind: &str, name: &str) -> Result<Option<CacheMount>> {
        CacheMount::take_fetched(&self.parts.handle, kind, name)
    }

    /// Takes a directory for the context that clients send under `name`; `None` when all of them
    /// are in use.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn sent_context(&self, name: &str) -> Result<Option<CacheMount>> {
        CacheMount::take_sent(&self.parts.handle, name)
    }

    /// Begins to bring what was written so far to the disk, and returns at once: after much was
    /// written, so that [`Store::sync`] finds less to do.
    pub fn sync_early(&self) {
        self.parts.handle.session.flush_early();
    }

    /// Brings everything to the disk with one syncfs(2): from then on a crash of the machine loses
    /// no snapshot and no record of this process.
    ///
    /// A crash of the process alone never does. [`Images::put`] calls this when needed.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn sync(&self) -> Result<()> {
        self.parts.snapshots.sync()
    }

    /// Returns what the store holds, and how much of it could go.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn usage(&self) -> Result<Usage> {
        gc::usage(self)
    }

    /// Removes what no tag and no running build needs, within `options`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn prune(&self, options: &PruneOptions) -> Result<Pruned> {
        gc::prune(self, options)
    }

    /// Brings the store below `keep_bytes`, if it can, by removing what was used longest ago.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn gc(&self, keep_bytes: u64) -> Result<Pruned> {
        let keep_bytes = Some(keep_bytes);
        let options = PruneOptions { all: true, keep_bytes, ..PruneOptions::default() };
        gc::prune(self, &options)
    }

    /// Sets how much the store may take, for all handles of this process; the first call holds.
    pub fn govern(&self, policy: GcPolicy) {
        self.handle().budget().govern(policy);
    }

    /// Makes sure that `need` bytes may be written: where the policy leaves no room for them, what
    /// is worth least goes first. Without a policy there always is room.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoRoom`] when the disk does not hold them even so.
    pub fn make_room(&self, need: u64) -> Result<()> {
        gc::make_room(self, need)
    }

    /// Tells other processes what this one added to the store, and brings it within its policy.
    /// Call it at the end of work; it costs nothing where nothing was added.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn settle(&self) -> Result<Pruned> {
        gc::settle(self)
    }

    /// Lists everything in the store, largest first.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn items(&self) -> Result<Vec<Item>> {
        gc::items(self)
    }

    /// Looks for damage; with `read_data` every blob is read and hashed, with `repair` what is
    /// damaged is removed, so that it is made or fetched again.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] when the store cannot be read at all.
    pub fn check(&self, read_data: bool, repair: bool) -> Result<CheckReport> {
        check::check(self, read_data, repair)
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.parts.handle
    }
}
