//! A cache as an OCI image layout in a directory.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use cache::{Descriptor, Digest, IngestError, Store};
use serde_json::{Value, json};

use super::depot::{Depot, Doing, Found};
use super::entry::{CacheIndex, INDEX_LIMIT};
use super::error::ExchangeError;
use super::layout::{Layout, REF_NAME, failed_at, name_of, open_plain, write_whole};
use super::registry::{CACHE_INDEX, Form, list_of, manifest};
use crate::blocking;
use crate::registry::Repository;
use crate::registry::document::{OCI_INDEX, OCI_MANIFEST};
use crate::source::{MANIFEST_LIMIT, SourceError, wire};

/// One entry of one layout. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct LocalDepot {
    layout: Layout,
    tag: String,
    /// This manifest, whatever the tag says.
    digest: Option<Digest>,
    store: Store,
    form: Form,
}

impl LocalDepot {
    pub(super) fn open(
        (dir, shown, tag): (&Path, &str, &str),
        digest: Option<Digest>,
        store: &Store,
        form: Form,
    ) -> Arc<dyn Depot> {
        Arc::new(Self {
            layout: Layout::at(dir, format!("{shown} ({tag})")),
            tag: tag.to_owned(),
            digest,
            store: store.clone(),
            form,
        })
    }

    fn load_blocking(&self) -> Result<Found, ExchangeError> {
        let digest = match self.digest {
            Some(digest) => Some(digest),
            None => self.tagged(&self.layout.entries()?),
        };
        let Some(digest) = digest else { return Ok(Found::default()) };
        let fault = |fault: &str| Found {
            version: Some(digest),
            fault: Some(fault.to_owned()),
            ..Found::default()
        };
        let Some(bytes) = self.layout.document(&digest, MANIFEST_LIMIT)? else {
            return Ok(fault("its manifest is missing or damaged"));
        };
        let config = match list_of(&bytes) {
            Ok(Some(config)) => config,
            Ok(None) => return Ok(Found { is_image: true, ..fault("it is an image") }),
            Err(text) => return Ok(fault(&text)),
        };
        let Some(bytes) = self.layout.document(&config.digest, INDEX_LIMIT)? else {
            return Ok(fault("its list of entries is missing or damaged"));
        };
        Ok(match CacheIndex::parse(&bytes) {
            Ok(index) => Found { index, version: Some(digest), ..Found::default() },
            Err(error) => fault(&crate::error::causes(&error).join(": ")),
        })
    }

    fn is_tagged(&self, entry: &Value) -> bool {
        name_of(entry) == self.tag
    }

    fn tagged(&self, entries: &[Value]) -> Option<Digest> {
        let entry = entries.iter().find(|entry| self.is_tagged(entry))?;
        Digest::parse(entry.get("digest")?.as_str()?).ok()
    }

    fn fetch_blocking(&self, blob: &Descriptor) -> Result<(), ExchangeError> {
        let path = self.layout.blob(&blob.digest);
        let file = open_plain(&path).map_err(|it| failed_at("read", &path, it))?;
        self.store.make_room(blob.size).map_err(SourceError::store("make room for a layer"))?;
        match self.store.content().ingest(file, blob.size, Some(blob.digest)) {
            Ok(_) => Ok(()),
            Err(error @ IngestError::Store(_)) => {
                Err(SourceError::store("keep a layer of the cache")(error).into())
            }
            Err(error) => {
                let damaged = io::Error::new(io::ErrorKind::InvalidData, error);
                Err(failed_at("read", &path, damaged))
            }
        }
    }

    fn put_blocking(&self, blob: &Descriptor) -> Result<bool, ExchangeError> {
        let to = self.layout.blob(&blob.digest);
        if fs::metadata(&to).is_ok_and(|found| found.len() == blob.size) {
            // Whoever removes orphans sees that it is wanted.
            let noted = File::open(&to).and_then(|file| file.set_modified(SystemTime::now()));
            noted.map_err(|it| failed_at("write", &to, it))?;
            return Ok(false);
        }
        let from = self.store.content().path(&blob.digest);
        self.layout.make()?;
        write_whole(&to, |file| io::copy(&mut File::open(&from)?, file).map(drop))?;
        Ok(true)
    }

    fn replace_blocking(
        &self,
        index: &CacheIndex,
        seen: Option<Digest>,
    ) -> Result<bool, ExchangeError> {
        self.layout.make()?;
        let _alone = self.layout.lock()?;
        let mut entries = self.layout.entries()?;
        if self.tagged(&entries) != seen {
            return Ok(false);
        }
        let config = self.keep(&index.encode(), CACHE_INDEX)?;
        let media_type = if self.form.image_manifest { OCI_MANIFEST } else { OCI_INDEX };
        let manifest = self.keep(&manifest(self.form, &config, &index.blobs()), media_type)?;
        entries.retain(|entry| !self.is_tagged(entry));
        let mut entry = serde_json::to_value(wire(&manifest)).expect("a descriptor is JSON");
        entry["annotations"] = json!({ REF_NAME: self.tag });
        entries.push(entry);
        self.layout.set_entries(&entries)?;
        Ok(true)
    }

    fn keep(&self, bytes: &[u8], media_type: &str) -> Result<Descriptor, ExchangeError> {
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        write_whole(&self.layout.blob(&digest), |file| file.write_all(bytes))?;
        Ok(Descriptor { media_type: media_type.to_owned(), digest, size })
    }
}

impl Depot for LocalDepot {
    fn name(&self) -> &str {
        self.layout.name()
    }

    fn load(&self) -> Doing<'_, Found> {
        let this = self.clone();
        Box::pin(blocking::run(move || this.load_blocking()))
    }

    fn fetch<'a>(&'a self, blob: &'a Descriptor, moved: &'a (dyn Fn(u64) + Sync)) -> Doing<'a, ()> {
        let (this, wanted) = (self.clone(), blob.clone());
        Box::pin(async move {
            blocking::run(move || this.fetch_blocking(&wanted)).await?;
            moved(blob.size);
            Ok(())
        })
    }

    fn put<'a>(
        &'a self,
        blob: &'a Descriptor,
        _sources: &'a [Repository],
        moved: &'a (dyn Fn(u64) + Sync),
    ) -> Doing<'a, bool> {
        let (this, wanted) = (self.clone(), blob.clone());
        Box::pin(async move {
            let has_moved = blocking::run(move || this.put_blocking(&wanted)).await?;
            moved(blob.size);
            Ok(has_moved)
        })
    }

    fn has<'a>(&'a self, blob: &'a Descriptor) -> Doing<'a, bool> {
        let path = self.layout.blob(&blob.digest);
        Box::pin(async move { Ok(blocking::run(move || path.exists()).await) })
    }

    fn replace<'a>(&'a self, index: &'a CacheIndex, seen: Option<Digest>) -> Doing<'a, bool> {
        let (this, index) = (self.clone(), index.clone());
        Box::pin(blocking::run(move || this.replace_blocking(&index, seen)))
    }

    fn is_exact(&self) -> bool {
        true
    }
}
