//! Images by name.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::layout::Layout;
use crate::sealed;

/// A descriptor (OCI image-spec, descriptor.md) of a document in the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Descriptor {
    /// What the document is.
    pub media_type: String,
    /// Of its exact bytes.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

/// One name of an image, or an image without a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// `docker.io/library/app-node:1`; `None` for an image that has no name.
    pub reference: Option<String>,
    /// Its manifest in the store.
    pub manifest: Descriptor,
    /// Digest of its config: the image ID.
    pub config: Digest,
}

impl ImageRecord {
    /// The text whose digest is the record's file name. An untagged image's is no valid reference.
    fn identity(&self) -> String {
        self.reference.clone().unwrap_or_else(|| format!("untagged {}", self.config))
    }
}

/// The images of one store.
#[derive(Clone, Debug)]
pub struct Images {
    layout: Layout,
}

impl Images {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout }
    }

    fn path(&self, identity: &str) -> PathBuf {
        self.layout.part("images").join(Digest::of(identity.as_bytes()).hex())
    }

    /// Looks a full reference up.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn get(&self, reference: &str) -> io::Result<Option<ImageRecord>> {
        sealed::read(&self.path(reference))
    }

    /// Gives an image a name, or keeps it without one. An image that loses its last name to
    /// another stays, nameless; one that gains a name is nameless no more.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn put(&self, record: &ImageRecord) -> io::Result<()> {
        let Some(reference) = &record.reference else {
            let is_named =
                self.find_by_id(&record.config.hex())?.iter().any(|r| r.reference.is_some());
            return if is_named { Ok(()) } else { self.write(record) };
        };
        let before = self.get(reference)?.filter(|before| before.config != record.config);
        self.write(record)?;
        self.forget(&ImageRecord { reference: None, ..record.clone() })?;
        match before {
            Some(before) => self.put(&ImageRecord { reference: None, ..before }),
            None => Ok(()),
        }
    }

    fn write(&self, record: &ImageRecord) -> io::Result<()> {
        sealed::write(&self.layout, &self.path(&record.identity()), record)
    }

    fn forget(&self, record: &ImageRecord) -> io::Result<bool> {
        match fs::remove_file(self.path(&record.identity())) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes a name away; whether it was there. Its documents stay until the store is pruned.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn remove(&self, record: &ImageRecord) -> io::Result<bool> {
        self.forget(record)
    }

    /// Lists all names that can be read, in the order of their references.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list(&self) -> io::Result<Vec<ImageRecord>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(self.layout.part("images"))? {
            records.extend(sealed::read::<ImageRecord>(&entry?.path())?);
        }
        records.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(records)
    }

    /// Finds the images whose ID begins with the hex digits `prefix`.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn find_by_id(&self, prefix: &str) -> io::Result<Vec<ImageRecord>> {
        let mut records = self.list()?;
        records.retain(|record| record.config.hex().starts_with(prefix));
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(reference: Option<&str>, id: &[u8]) -> ImageRecord {
        let config = Digest::of(id);
        let manifest = Descriptor { media_type: String::new(), digest: config, size: 1 };
        ImageRecord { reference: reference.map(str::to_owned), manifest, config }
    }

    #[test]
    fn an_image_without_a_name_is_still_there() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(Layout::open(dir.path()).unwrap());
        images.put(&record(Some("a:1"), b"old")).unwrap();
        images.put(&record(Some("a:1"), b"new")).unwrap();
        let names: Vec<_> =
            images.list().unwrap().into_iter().map(|r| (r.reference, r.config)).collect();
        let want = [(None, Digest::of(b"old")), (Some("a:1".to_owned()), Digest::of(b"new"))];
        assert_eq!(names, want);
        images.put(&record(Some("b:1"), b"old")).unwrap();
        assert!(images.list().unwrap().iter().all(|record| record.reference.is_some()));
        images.put(&record(None, b"old")).unwrap();
        assert_eq!(images.list().unwrap().len(), 2, "a named image needs no nameless record");
    }
}
