//! Blobs by digest, in the form of an OCI image layout (OCI image-spec, image-layout.md).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use crate::digest::{Digest, HashingWriter};
use crate::layout::Layout;

/// Bytes moved at once while a blob is read or written.
const BUFFER: usize = 256 << 10;

/// A blob that was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Of its exact bytes.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

/// Why a blob was not taken in. The store holds nothing of it.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// More bytes than allowed.
    #[error("the blob is larger than the allowed {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The bytes are not those that were promised.
    #[error("expected {expected}, got {found}")]
    Mismatch {
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// More or fewer bytes than promised.
    #[error("expected {expected} bytes, got {found}")]
    Size {
        /// What was promised.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// The source or the store failed.
    #[error("could not store the blob")]
    Io(#[from] io::Error),
}

/// The blobs of one store.
#[derive(Clone, Debug)]
pub struct Content {
    layout: Layout,
}

impl Content {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout }
    }

    /// Returns where the blob with `digest` is, or would be.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.layout.part("content/blobs/sha256").join(digest.hex())
    }

    /// Streams `body` into the store and returns its digest and size in bytes.
    ///
    /// The blob appears under its digest whole or not at all; it is durable once a record names it.
    ///
    /// # Errors
    ///
    /// [`IngestError::TooLarge`] after `limit` bytes, and [`IngestError::Mismatch`] when
    /// `expected` is given and differs (distribution-spec, "Pulling blobs": clients verify).
    pub fn ingest(
        &self,
        body: impl Read,
        limit: u64,
        expected: Option<Digest>,
    ) -> Result<Blob, IngestError> {
        let mut writer = self.writer()?;
        let mut body = body.take(limit.saturating_add(1));
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = body.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            writer.write_all(&buffer[..read])?;
        }
        if writer.written() > limit {
            return Err(IngestError::TooLarge { limit });
        }
        writer.commit(expected, None)
    }

    /// Returns a writer for callers that are handed pieces. Nothing appears before its commit.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn writer(&self) -> io::Result<BlobWriter> {
        let temporary = self.layout.temp_name()?;
        let file = File::create_new(&temporary)?;
        Ok(BlobWriter { content: self.clone(), hashing: HashingWriter::new(file), temporary })
    }

    /// Opens a blob; `None` when it is not here. Its bytes are not checked: see [`Content::read`].
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn open(&self, digest: &Digest) -> io::Result<Option<File>> {
        match File::open(self.path(digest)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a document of at most `limit` bytes and checks its digest. Damage is taken as
    /// absence: the blob is dropped, with a warning.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn read(&self, digest: &Digest, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.open(digest)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit || Digest::of(&bytes) != *digest {
            tracing::warn!(%digest, "damaged blob in the store is taken as missing");
            self.remove(digest)?;
            return Ok(None);
        }
        Ok(Some(bytes))
    }

    /// Whether the blob is here.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Returns a blob's size in bytes, if it is here.
    #[must_use]
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|metadata| metadata.len())
    }

    /// Takes a blob away. One that is not there is no error.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn remove(&self, digest: &Digest) -> io::Result<()> {
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Lists all blobs.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list(&self) -> io::Result<Vec<Blob>> {
        let mut blobs = Vec::new();
        for entry in fs::read_dir(self.layout.part("content/blobs/sha256"))? {
            let entry = entry?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| Digest::parse_hex(name).ok());
            if let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) {
                blobs.push(Blob { digest, size: metadata.len() });
            }
        }
        blobs.sort_by_key(|blob| blob.digest);
        Ok(blobs)
    }
}

/// A blob on its way in. Dropped without a commit it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    content: Content,
    hashing: HashingWriter<File>,
    temporary: PathBuf,
}

impl BlobWriter {
    /// Returns the bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.hashing.written()
    }

    /// Checks the blob against what was promised and gives it its name.
    ///
    /// # Errors
    ///
    /// [`IngestError::Mismatch`] and [`IngestError::Size`] when a promise is broken.
    pub fn commit(self, digest: Option<Digest>, size: Option<u64>) -> Result<Blob, IngestError> {
        let (found, written) = self.hashing.digest();
        if let Some(expected) = size.filter(|&size| size != written) {
            return Err(IngestError::Size { expected, found: written });
        }
        if let Some(expected) = digest.filter(|&digest| digest != found) {
            return Err(IngestError::Mismatch { expected, found });
        }
        fs::rename(&self.temporary, self.content.path(&found))?;
        Ok(Blob { digest: found, size: written })
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hashing.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // After a commit there is nothing under the temporary name any more.
        drop(fs::remove_file(&self.temporary));
    }
}
