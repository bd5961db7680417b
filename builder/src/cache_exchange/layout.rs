//! An OCI image layout in a directory, in which several entries have their names.
//!
//! Writers exclude each other by a lock on the directory, so none is ever lost. Blobs that no
//! manifest names any more are removed once they are old enough not to be somebody's upload.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cache::{Digest, HashingReader};
use rustix::fs::{FlockOperation, OFlags, flock};
use serde_json::{Value, json};

use super::error::ExchangeError;
use crate::registry::document::OCI_INDEX;
use crate::source::MANIFEST_LIMIT;

/// Annotation with the name of an entry (OCI image-spec, annotations.md).
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Age at which a blob that nobody names cannot be on its way in any more.
const ORPHAN_AGE: Duration = Duration::from_secs(24 * 3600);

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// For people.
    name: String,
    dir: PathBuf,
}

/// Returns the name of an entry of `index.json`.
pub(super) fn name_of(entry: &Value) -> &str {
    let name = entry.get("annotations").and_then(|it| it.get(REF_NAME)?.as_str());
    name.unwrap_or("latest")
}

impl Layout {
    pub(super) fn at(dir: &Path, name: String) -> Self {
        Self { name, dir: dir.to_owned() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Reads a document whole and checks it; `None` when it is not there or damaged.
    pub(super) fn document(
        &self,
        digest: &Digest,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, ExchangeError> {
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
    pub(super) fn entries(&self) -> Result<Vec<Value>, ExchangeError> {
        let bytes = self.read(&self.dir.join("index.json"), MANIFEST_LIMIT)?;
        let value: Option<Value> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let listed = value.and_then(|value| value.get("manifests")?.as_array().cloned());
        Ok(listed.unwrap_or_default())
    }

    pub(super) fn make(&self) -> Result<(), ExchangeError> {
        let blobs = self.blobs();
        fs::create_dir_all(&blobs).map_err(|it| failed_at("create", &blobs, it))?;
        let marker = self.dir.join("oci-layout");
        if marker.exists() {
            return Ok(());
        }
        write_whole(&marker, |file| file.write_all(br#"{"imageLayoutVersion":"1.0.0"}"#))
    }

    pub(super) fn lock(&self) -> Result<File, ExchangeError> {
        let failed = |source| failed_at("lock", &self.dir, source);
        let dir = File::open(&self.dir).map_err(failed)?;
        rustix::io::retry_on_intr(|| flock(&dir, FlockOperation::LockExclusive))
            .map_err(|it| failed(it.into()))?;
        Ok(dir)
    }

    /// Writes `index.json`, and removes what it names no more. The lock must be held.
    pub(super) fn set_entries(&self, entries: &[Value]) -> Result<(), ExchangeError> {
        let document = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        write_whole(&self.dir.join("index.json"), |file| write!(file, "{document}"))?;
        self.sweep(entries)
    }

    /// Takes in the entries of `other` in the place of those of their names, with all blobs that are
    /// what they are called.
    fn take_in(&self, other: &Self) -> Result<(), ExchangeError> {
        self.make()?;
        let blobs = other.blobs();
        let found = fs::read_dir(&blobs).map_err(|it| failed_at("read", &blobs, it))?;
        for entry in found {
            let name = entry.map_err(|it| failed_at("read", &blobs, it))?.file_name();
            let digest = name.to_str().and_then(|name| Digest::parse_hex(name).ok());
            if let Some(digest) = digest {
                take_blob(&other.blob(&digest), &self.blob(&digest), digest)?;
            }
        }
        let _alone = self.lock()?;
        let (mut entries, new) = (self.entries()?, other.entries()?);
        entries.retain(|entry| !new.iter().any(|new| name_of(new) == name_of(entry)));
        entries.extend(new);
        self.set_entries(&entries)
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

/// Merges the layout in the directory `from` into the one in `to`, which is made where there is
/// none: entries of the same name are replaced. Blocking.
///
/// # Errors
///
/// [`ExchangeError::File`], also for a blob that is not what its name says.
pub fn merge_layouts(from: &Path, to: &Path) -> Result<(), ExchangeError> {
    let at = |dir: &Path| Layout::at(dir, dir.display().to_string());
    at(to).take_in(&at(from))
}

fn take_blob(from: &Path, to: &Path, digest: Digest) -> Result<(), ExchangeError> {
    let blob = open_plain(from).map_err(|it| failed_at("read", from, it))?;
    let size = blob.metadata().map_err(|it| failed_at("read", from, it))?.len();
    if fs::metadata(to).is_ok_and(|found| found.len() == size) {
        return Ok(());
    }
    write_whole(to, |file| {
        let mut reader = HashingReader::new(blob);
        io::copy(&mut reader, file)?;
        let (_, found, _) = reader.finish();
        let is_right = found == digest;
        is_right.then_some(()).ok_or_else(|| io::Error::other("its digest is not its name"))
    })
}

/// Has a file appear at `path`, whole or not at all.
pub(super) fn write_whole(
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

pub(super) fn failed_at(action: &'static str, path: &Path, source: io::Error) -> ExchangeError {
    ExchangeError::File { action, path: path.to_owned(), source }
}

/// Opens a regular file and nothing else: a link could lead anywhere, a pipe never ends.
pub(super) fn open_plain(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
}
