//! A cache as an OCI image layout in a directory.
//!
//! Writers exclude each other by a lock on the directory, so none is ever lost. Blobs that no
//! manifest names any more are removed once they are old enough not to be somebody's upload.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cache::{Descriptor, Digest, IngestError, Store};
use rustix::fs::{FlockOperation, OFlags, flock};
use serde_json::{Value, json};

use super::depot::{Depot, Doing, Found};
use super::entry::{CacheIndex, INDEX_LIMIT};
use super::error::ExchangeError;
use super::registry::{CACHE_INDEX, Form, list_of, manifest};
use crate::blocking;
use crate::registry::Repository;
use crate::registry::document::{OCI_INDEX, OCI_MANIFEST};
use crate::source::{MANIFEST_LIMIT, SourceError, wire};

/// Annotation with the name of an entry (OCI image-spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Age at which a blob that nobody names cannot be on its way in any more.
const ORPHAN_AGE: Duration = Duration::from_secs(24 * 3600);

/// One entry of one layout. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct LocalDepot {
    name: String,
    dir: PathBuf,
    tag: String,
    /// This manifest, whatever the tag says.
    digest: Option<Digest>,
    store: Store,
    form: Form,
}

impl LocalDepot {
    pub(super) fn open(
        (dir, tag): (&Path, &str),
        digest: Option<Digest>,
        store: &Store,
        form: Form,
    ) -> Arc<dyn Depot> {
        Arc::new(Self {
            name: format!("{} ({tag})", dir.display()),
            dir: dir.to_owned(),
            tag: tag.to_owned(),
            digest,
            store: store.clone(),
            form,
        })
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn load_blocking(&self) -> Result<Found, ExchangeError> {
        let digest = match self.digest {
            Some(digest) => Some(digest),
            None => self.tagged(&self.layout()?),
        };
        let Some(digest) = digest else { return Ok(Found::default()) };
        let fault = |fault: &str| Found {
            version: Some(digest),
            fault: Some(fault.to_owned()),
            ..Found::default()
        };
        let Some(bytes) = self.document(&digest, MANIFEST_LIMIT)? else {
            return Ok(fault("its manifest is missing or damaged"));
        };
        let config = match list_of(&bytes) {
            Ok(Some(config)) => config,
            Ok(None) => return Ok(Found { is_image: true, ..fault("it is an image") }),
            Err(text) => return Ok(fault(&text)),
        };
        let Some(bytes) = self.document(&config.digest, INDEX_LIMIT)? else {
            return Ok(fault("its list of entries is missing or damaged"));
        };
        Ok(match CacheIndex::parse(&bytes) {
            Ok(index) => Found { index, version: Some(digest), ..Found::default() },
            Err(error) => fault(&crate::error::causes(&error).join(": ")),
        })
    }

    /// Reads a document whole and checks it; `None` when it is not there or damaged.
    fn document(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, ExchangeError> {
        let bytes = self.read(&self.blob(digest), limit)?;
        Ok(bytes.filter(|bytes| {
            let is_whole = Digest::of(bytes) == *digest;
            if !is_whole {
                tracing::warn!(%digest, cache = self.name, "a document of the cache is damaged");
            }
            is_whole
        }))
    }

    fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, ExchangeError> {
        let failed = |source| failed_at("read", path, source);
        let file = match open_plain(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed)?,
        };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > limit {
            return Err(ExchangeError::TooLarge { name: self.name.clone(), limit });
        }
        Ok(Some(bytes))
    }

    /// Returns the descriptors of `index.json`.
    fn layout(&self) -> Result<Vec<Value>, ExchangeError> {
        let bytes = self.read(&self.dir.join("index.json"), MANIFEST_LIMIT)?;
        let value: Option<Value> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let listed = value.and_then(|value| value.get("manifests")?.as_array().cloned());
        Ok(listed.unwrap_or_default())
    }

    fn is_tagged(&self, entry: &Value) -> bool {
        let name = entry.get("annotations").and_then(|it| it.get(REF_NAME)?.as_str());
        name.unwrap_or("latest") == self.tag
    }

    fn tagged(&self, layout: &[Value]) -> Option<Digest> {
        let entry = layout.iter().find(|entry| self.is_tagged(entry))?;
        Digest::parse(entry.get("digest")?.as_str()?).ok()
    }

    fn fetch_blocking(&self, blob: &Descriptor) -> Result<(), ExchangeError> {
        let path = self.blob(&blob.digest);
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
        let to = self.blob(&blob.digest);
        if fs::metadata(&to).is_ok_and(|found| found.len() == blob.size) {
            // Whoever removes orphans sees that it is wanted.
            let noted = File::open(&to).and_then(|file| file.set_modified(SystemTime::now()));
            noted.map_err(|it| failed_at("write", &to, it))?;
            return Ok(false);
        }
        let from = self.store.content().path(&blob.digest);
        self.make_layout()?;
        write_whole(&to, |file| io::copy(&mut File::open(&from)?, file).map(drop))?;
        Ok(true)
    }

    fn make_layout(&self) -> Result<(), ExchangeError> {
        let blobs = self.blobs();
        fs::create_dir_all(&blobs).map_err(|it| failed_at("create", &blobs, it))?;
        let marker = self.dir.join("oci-layout");
        if marker.exists() {
            return Ok(());
        }
        write_whole(&marker, |file| file.write_all(br#"{"imageLayoutVersion":"1.0.0"}"#))
    }

    fn replace_blocking(
        &self,
        index: &CacheIndex,
        seen: Option<Digest>,
    ) -> Result<bool, ExchangeError> {
        self.make_layout()?;
        let _alone = self.lock()?;
        let mut layout = self.layout()?;
        if self.tagged(&layout) != seen {
            return Ok(false);
        }
        let config = self.keep(&index.encode(), CACHE_INDEX)?;
        let media_type = if self.form.image_manifest { OCI_MANIFEST } else { OCI_INDEX };
        let manifest = self.keep(&manifest(self.form, &config, &index.blobs()), media_type)?;
        layout.retain(|entry| !self.is_tagged(entry));
        let mut entry = serde_json::to_value(wire(&manifest)).expect("a descriptor is JSON");
        entry["annotations"] = json!({ REF_NAME: self.tag });
        layout.push(entry);
        let document = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": layout });
        write_whole(&self.dir.join("index.json"), |file| write!(file, "{document}"))?;
        self.sweep(&layout)?;
        Ok(true)
    }

    fn keep(&self, bytes: &[u8], media_type: &str) -> Result<Descriptor, ExchangeError> {
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        write_whole(&self.blob(&digest), |file| file.write_all(bytes))?;
        Ok(Descriptor { media_type: media_type.to_owned(), digest, size })
    }

    fn lock(&self) -> Result<File, ExchangeError> {
        let failed = |source| failed_at("lock", &self.dir, source);
        let dir = File::open(&self.dir).map_err(failed)?;
        rustix::io::retry_on_intr(|| flock(&dir, FlockOperation::LockExclusive))
            .map_err(|it| failed(it.into()))?;
        Ok(dir)
    }

    /// Removes blobs that nothing names and nobody is about to name. A manifest that cannot be read
    /// may name any of them: then all stay.
    fn sweep(&self, layout: &[Value]) -> Result<(), ExchangeError> {
        let mut named = HashSet::new();
        let mut waiting = layout.to_vec();
        while let Some(entry) = waiting.pop() {
            let digest = entry.get("digest").and_then(|it| Digest::parse(it.as_str()?).ok());
            let Some(digest) = digest else { return Ok(()) };
            if !named.insert(digest) {
                continue;
            }
            let media_type = entry.get("mediaType").and_then(Value::as_str).unwrap_or_default();
            if !media_type.contains("manifest") && media_type != OCI_INDEX {
                continue;
            }
            let Some(bytes) = self.document(&digest, MANIFEST_LIMIT)? else { return Ok(()) };
            let Ok(value) = serde_json::from_slice::<Value>(&bytes) else { return Ok(()) };
            let lists =
                ["manifests", "layers"].into_iter().filter_map(|it| value.get(it)?.as_array());
            waiting.extend(lists.flatten().chain(value.get("config")).cloned());
        }
        let blobs = self.blobs();
        let entries = fs::read_dir(&blobs).map_err(|it| failed_at("read", &blobs, it))?;
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| Digest::parse_hex(name).ok());
            if digest.is_some_and(|digest| named.contains(&digest)) {
                continue;
            }
            let age = entry.metadata().and_then(|it| it.modified()).ok();
            if age.and_then(|it| it.elapsed().ok()).is_some_and(|age| age > ORPHAN_AGE) {
                fs::remove_file(entry.path())
                    .map_err(|it| failed_at("remove", &entry.path(), it))?;
            }
        }
        Ok(())
    }
}

/// Has a file appear at `path`, whole or not at all.
fn write_whole(
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), ExchangeError> {
    let random = getrandom::u64().unwrap_or_default();
    let new = path.with_extension(format!("new-{random:x}"));
    let write = || {
        let mut new_file = File::create_new(&new)?;
        fill(&mut new_file)?;
        new_file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|error| {
        drop(fs::remove_file(&new));
        failed_at("write", path, error)
    })
}

fn failed_at(action: &'static str, path: &Path, source: io::Error) -> ExchangeError {
    ExchangeError::File { action, path: path.to_owned(), source }
}

/// Opens a regular file and nothing else: a link could lead anywhere, a pipe never ends.
fn open_plain(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
}

impl Depot for LocalDepot {
    fn name(&self) -> &str {
        &self.name
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
        let path = self.blob(&blob.digest);
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
