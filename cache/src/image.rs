//! Images: tags, and images that lost theirs or never had one.
//!
//! Invariant: a tag changes in one rename, after everything it names is on the disk; whoever reads
//! it sees the old image or the new one.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::content::Content;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::document::{self, Draft, Durability, Kind};
use crate::error::{AtPath, Result, found};
use crate::lease::{Handle, Held};
use crate::lock::FileLock;
use crate::snapshot::Snapshots;

/// How the file of an image without a tag is called, before the digest of its config.
const UNTAGGED: &str = "untagged-";

/// One name of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// `docker.io/library/app-node:1`; `None` for an image without a tag.
    pub reference: Option<String>,
    /// The manifest, or the index of an image for several platforms.
    pub manifest: Descriptor,
    /// The config, whose digest is the image's id.
    pub config: Digest,
    /// When the image was built or pulled, in seconds since 1970 UTC.
    pub created: u64,
    /// When the name was given to it, in seconds since 1970 UTC.
    pub updated: u64,
}

/// Why an id names no single image.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// Not hexadecimal digits.
    #[error("`{text}` is not an image id")]
    NotAnId {
        /// The text given.
        text: String,
    },
    /// More than one image's id begins so.
    #[error("the id `{prefix}` is ambiguous: it begins {count} images, give more of it")]
    Ambiguous {
        /// The beginning given.
        prefix: String,
        /// The number of images.
        count: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::error::StoreError),
}

/// The images of a store.
#[derive(Clone, Debug)]
pub struct Images {
    handle: Arc<Handle>,
    content: Content,
    snapshots: Snapshots,
}

impl Images {
    pub(crate) const fn new(handle: Arc<Handle>, content: Content, snapshots: Snapshots) -> Self {
        Self { handle, content, snapshots }
    }

    /// Looks a tag up, by its full reference, and keeps the image from gc.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io); a damaged record is a warning and `None`.
    pub fn get(&self, reference: &str) -> Result<Option<ImageRecord>> {
        let no_gc = self.handle.no_gc()?;
        let image = load(&self.tagged_path(reference))?;
        if let Some(image) = &image {
            self.handle.hold(&no_gc, Held::Image(image.manifest.digest))?;
        }
        Ok(image)
    }

    /// Gives an image its name, on the disk when this returns.
    ///
    /// All content written so far reaches the disk first. An image that loses its last tag by
    /// this stays as one without.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io), also when the manifest is not in the store.
    pub fn put(&self, image: &ImageRecord) -> Result<()> {
        let path = self.path(image);
        let before = load(&path)?;
        let (mut new, mut untagged) = (None, None);
        if before.as_ref().is_none_or(|old| old.manifest != image.manifest) {
            // Written ahead, the records reach the disk with all else, and only their names must be
            // waited for.
            new = Some(self.draft(image)?);
            let loses_its_tag = before.as_ref().filter(|old| old.config != image.config);
            untagged = loses_its_tag.map(|old| self.draft(&untagged_of(old))).transpose()?;
            self.snapshots.sync()?;
        }
        let no_gc = self.handle.no_gc()?;
        let _alone = self.lock()?;
        self.handle.hold(&no_gc, Held::Image(image.manifest.digest))?;
        let manifest = self.content.path(&image.manifest.digest);
        fs::symlink_metadata(&manifest).at("name", &manifest)?;
        // Looked at again: another process may have moved the tag before the lock was ours.
        let old = load(&path)?;
        let names_it = |old: &ImageRecord| {
            old.reference == image.reference
                && old.manifest == image.manifest
                && old.config == image.config
        };
        if old.as_ref().is_some_and(names_it) {
            return Ok(());
        }
        let mut tagged = Vec::new();
        if image.reference.is_some() {
            tagged = self.tagged()?;
            tagged.retain(|other| other.reference != image.reference);
        }
        let is_as_before = old == before;
        let is_last_of = |old: &ImageRecord| {
            old.config != image.config && tagged.iter().all(|other| other.config != old.config)
        };
        if let Some(old) = old.filter(is_last_of) {
            match untagged.filter(|_| is_as_before) {
                Some(untagged) => untagged.publish()?,
                None => self.write(&untagged_of(&old))?,
            }
        }
        match new {
            Some(new) => {
                new.publish()?;
                document::sync_names(&self.handle.layout.images())?;
            }
            None => self.write(image)?,
        }
        if image.reference.is_none() {
            return Ok(());
        }
        self.drop_untagged(&image.config)?;
        tagged.push(image.clone());
        self.write_index(tagged)
    }

    /// Removes a tag; false when there was none. The image's content is gc's to remove.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn remove(&self, reference: &str) -> Result<bool> {
        let _alone = self.lock()?;
        let path = self.tagged_path(reference);
        let removed = found(fs::remove_file(&path)).at("remove", &path)?.is_some();
        self.write_index(self.tagged()?)?;
        Ok(removed)
    }

    /// Removes an image without a tag by the digest of its config; false when there was none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn remove_untagged(&self, config: &Digest) -> Result<bool> {
        let _alone = self.lock()?;
        self.drop_untagged(config)
    }

    /// Returns all images, tagged ones by name, then those without a tag by age.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io); damaged records are left out with a warning.
    pub fn list(&self) -> Result<Vec<ImageRecord>> {
        let mut images = Vec::new();
        for path in self.paths()? {
            images.extend(load(&path)?);
        }
        images.sort_by(|a, b| {
            let order = |image: &ImageRecord| {
                (image.reference.is_none(), image.reference.clone(), image.created, image.config)
            };
            order(a).cmp(&order(b))
        });
        Ok(images)
    }

    /// Returns the images that have a tag. Those without one, which only grow in number while the
    /// same names are built again and again, are not read.
    fn tagged(&self) -> Result<Vec<ImageRecord>> {
        let mut images = Vec::new();
        for path in self.paths()?.iter().filter(|path| !is_untagged(path)) {
            images.extend(load(path)?);
        }
        Ok(images)
    }

    /// Returns all names of the one image whose id begins with `prefix` (`sha256:` or not), and
    /// keeps it from gc; none when there is no such image.
    ///
    /// # Errors
    ///
    /// [`FindError::Ambiguous`] when several images' ids begin so, [`FindError::NotAnId`] when no
    /// id can.
    pub fn find_by_id(&self, prefix: &str) -> Result<Vec<ImageRecord>, FindError> {
        let hex = prefix.strip_prefix("sha256:").unwrap_or(prefix);
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if hex.is_empty() || hex.len() > 64 || !hex.bytes().all(is_hex) {
            return Err(FindError::NotAnId { text: prefix.to_owned() });
        }
        let no_gc = self.handle.no_gc()?;
        let mut images = self.list()?;
        images.retain(|image| image.config.hex().starts_with(hex));
        let mut ids: Vec<Digest> = images.iter().map(|image| image.config).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() > 1 {
            return Err(FindError::Ambiguous { prefix: prefix.to_owned(), count: ids.len() });
        }
        for image in &images {
            self.handle.hold(&no_gc, Held::Image(image.manifest.digest))?;
        }
        Ok(images)
    }

    fn drop_untagged(&self, config: &Digest) -> Result<bool> {
        let path = self.untagged_path(config);
        Ok(found(fs::remove_file(&path)).at("remove", &path)?.is_some())
    }

    fn write(&self, image: &ImageRecord) -> Result<()> {
        let (session, path) = (&self.handle.session, self.path(image));
        document::replace(session, Kind::Image, &path, image, Durability::Now)
    }

    fn draft(&self, image: &ImageRecord) -> Result<Draft<'_>> {
        Draft::of(&self.handle.session, Kind::Image, &self.path(image), image)
    }

    /// Writes `index.json`, by which other tools find the images (OCI image-spec, image-layout.md).
    fn write_index(&self, mut tagged: Vec<ImageRecord>) -> Result<()> {
        tagged.sort_by(|a, b| a.reference.cmp(&b.reference));
        let entry = |image: &ImageRecord| {
            serde_json::json!({
                "mediaType": image.manifest.media_type,
                "digest": image.manifest.digest,
                "size": image.manifest.size,
                "annotations": { "org.opencontainers.image.ref.name": image.reference },
            })
        };
        let manifests: Vec<_> = tagged.iter().map(entry).collect();
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": manifests });
        let path = self.handle.layout.content().join("index.json");
        let bytes = index.to_string();
        document::replace_bytes(&self.handle.session, &path, bytes.as_bytes(), Durability::Later)
    }

    fn lock(&self) -> Result<FileLock> {
        let path = self.handle.layout.images().join(".lock");
        FileLock::exclusive(&path).at("lock", &path)
    }

    /// Returns the files of all images.
    pub(crate) fn paths(&self) -> Result<Vec<PathBuf>> {
        let root = self.handle.layout.images();
        let files = fs::read_dir(&root).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let paths = files.at("read", &root)?.into_iter().map(|file| file.path());
        Ok(paths.filter(|path| !path.ends_with(".lock")).collect())
    }

    fn path(&self, image: &ImageRecord) -> PathBuf {
        match &image.reference {
            Some(reference) => self.tagged_path(reference),
            None => self.untagged_path(&image.config),
        }
    }

    /// A hash, since a reference may be longer than a file name.
    fn tagged_path(&self, reference: &str) -> PathBuf {
        self.handle.layout.images().join(Digest::of(reference.as_bytes()).hex())
    }

    fn untagged_path(&self, config: &Digest) -> PathBuf {
        self.handle.layout.images().join(format!("{UNTAGGED}{}", config.hex()))
    }
}

/// Describes an image that has lost its tag.
fn untagged_of(image: &ImageRecord) -> ImageRecord {
    ImageRecord { reference: None, ..image.clone() }
}

fn is_untagged(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(UNTAGGED.as_bytes()))
}

/// Reads the image record at `path`, if it is whole.
pub(crate) fn load(path: &Path) -> Result<Option<ImageRecord>> {
    Ok(document::load(Kind::Image, path)?.or_warn(path))
}
