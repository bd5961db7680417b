//! Blobs: exact bytes, named by their digest.
//!
//! Invariant: nothing has a name here that was not computed from the bytes as they were written.
//! What is found damaged is removed, told in the log, and counts as absent from then on.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::digest::{Digest, HashingReader, HashingWriter};
use crate::error::{AtPath, ErrorKind, Result, StoreError, found};
use crate::lease::{Handle, Held};

/// Bytes copied at a time.
const BUFFER: usize = 128 << 10;

/// A blob in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Blob {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
}

/// Why bytes did not become a blob.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// More bytes came than are allowed; the rest was not read.
    #[error("more than the {limit} bytes allowed")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The bytes are not the promised ones.
    #[error("the bytes have digest {found}, expected {expected}")]
    Mismatch {
        /// The digest promised.
        expected: Digest,
        /// The digest computed.
        found: Digest,
    },
    /// Too few or too many bytes came.
    #[error("{found} bytes came, expected {expected}")]
    Size {
        /// The number promised.
        expected: u64,
        /// The number counted.
        found: u64,
    },
    /// The source failed.
    #[error("could not read the bytes")]
    Read {
        /// What it said.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IngestError {
    /// Returns who must act.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::TooLarge { .. }
            | Self::Mismatch { .. }
            | Self::Size { .. }
            | Self::Read { .. } => ErrorKind::Remote,
        }
    }
}

/// The blobs of a store.
#[derive(Clone, Debug)]
pub struct Content {
    handle: Arc<Handle>,
}

impl Content {
    pub(crate) const fn new(handle: Arc<Handle>) -> Self {
        Self { handle }
    }

    /// Streams `body` into the store and returns its digest and size in bytes.
    ///
    /// The blob appears under its digest whole or not at all; it is durable once a record names it.
    /// Blocking.
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
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(IngestError::Read { source }),
            };
            writer.write_all(&buffer[..count]).at("write", &writer.unnamed.path)?;
        }
        if writer.written() > limit {
            return Err(IngestError::TooLarge { limit });
        }
        match expected {
            Some(digest) => {
                let size = writer.written();
                writer.commit(Some((digest, size)))
            }
            None => writer.commit(None),
        }
    }

    /// Starts a blob whose bytes come in pieces. It has no limit of its own.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn writer(&self) -> Result<BlobWriter> {
        let path = self.handle.session.fresh("blob");
        let file = File::create_new(&path).at("create", &path)?;
        let unnamed = Unnamed { path, content: self.clone() };
        Ok(BlobWriter { file: HashingWriter::new(file), unnamed })
    }

    /// Opens a blob for reading and keeps it from gc; `None` when it is absent.
    ///
    /// The bytes are not checked: use [`Content::reader`] unless the caller hashes them anyway.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn open(&self, digest: &Digest) -> Result<Option<File>> {
        if self.size(digest)?.is_none() {
            return Ok(None);
        }
        let path = self.path(digest);
        found(File::open(&path)).at("open", &path)
    }

    /// Opens a blob whose bytes are checked as they are read; `None` when it is absent.
    ///
    /// At the end of a damaged blob the reader fails with [`io::ErrorKind::InvalidData`], and the
    /// blob is gone.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn reader(&self, digest: &Digest) -> Result<Option<BlobReader>> {
        let file = self.open(digest)?;
        Ok(file.map(|file| BlobReader {
            file: Some(HashingReader::new(file)),
            digest: *digest,
            content: self.clone(),
        }))
    }

    /// Reads a small document and checks its digest; `None` when it is absent or damaged.
    ///
    /// # Errors
    ///
    /// [`StoreError::TooLarge`] when it has more than `limit` bytes, else [`StoreError::Io`].
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
        if self.size(digest)?.is_none() {
            return Ok(None);
        }
        let bytes = self.peek(digest, limit)?;
        if bytes.is_none() {
            self.discard_damaged(digest)?;
        }
        Ok(bytes)
    }

    /// As [`Content::read`], without keeping the blob from gc, and without removing a damaged one.
    pub(crate) fn peek(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(size) = self.stat(digest)? else { return Ok(None) };
        let path = self.path(digest);
        if size > limit {
            return Err(StoreError::TooLarge { path, size, limit });
        }
        let Some(file) = found(File::open(&path)).at("open", &path)? else { return Ok(None) };
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0).min(BUFFER) + 1);
        file.take(limit).read_to_end(&mut bytes).at("read", &path)?;
        Ok((Digest::of(&bytes) == *digest).then_some(bytes))
    }

    /// Returns whether the blob is there, and keeps it from gc if so.
    ///
    /// A store that cannot be read answers false: the caller's next write says why.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        matches!(self.size(digest), Ok(Some(_)))
    }

    /// Returns the size of a blob in bytes and keeps it from gc; `None` when it is absent.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let held = Held::Blob(*digest);
        if self.handle.holds(&held) {
            return self.stat(digest);
        }
        let no_gc = self.handle.no_gc()?;
        let size = self.stat(digest)?;
        if size.is_some() {
            self.handle.hold(&no_gc, held)?;
        }
        Ok(size)
    }

    /// Removes a blob; false when there was none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn remove(&self, digest: &Digest) -> Result<bool> {
        let path = self.path(digest);
        Ok(found(fs::remove_file(&path)).at("remove", &path)?.is_some())
    }

    /// Returns where a blob lies or would lie.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.handle.layout.blobs().join(digest.hex())
    }

    /// Says that a blob is not what its name promises, and removes it.
    fn discard_damaged(&self, digest: &Digest) -> Result<()> {
        tracing::warn!(%digest, "a blob is damaged and was removed: it counts as absent");
        self.remove(digest).map(drop)
    }

    /// Returns the size on disk of a blob that may be believed.
    fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.path(digest);
        let size = found(fs::symlink_metadata(&path)).at("read", &path)?.map(|data| data.len());
        // What a crash of the machine makes of a blob that was never synced: a name without bytes.
        Ok(size.filter(|&size| size > 0 || *digest == Digest::of(b"")))
    }
}

/// A blob in the making; dropping it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    file: HashingWriter<File>,
    unnamed: Unnamed,
}

/// A file that goes unless it gets its name.
#[derive(Debug)]
struct Unnamed {
    /// Empty once it has its name.
    path: PathBuf,
    content: Content,
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if self.path != Path::new("") {
            self.content.handle.session.discard(std::mem::take(&mut self.path));
        }
    }
}

impl BlobWriter {
    /// Returns the number of bytes so far.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.file.written()
    }

    /// Opens the file once more, for whoever reads what is written meanwhile.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn reader(&self) -> Result<File> {
        File::open(&self.unnamed.path).at("read", &self.unnamed.path)
    }

    /// Gives the blob its name, and keeps it from gc.
    ///
    /// # Errors
    ///
    /// [`IngestError::Size`] and [`IngestError::Mismatch`] when the bytes are not the `expected`
    /// ones (digest and size), [`IngestError::Store`] when the file system refuses.
    pub fn commit(self, expected: Option<(Digest, u64)>) -> Result<Blob, IngestError> {
        let Self { file, mut unnamed } = self;
        let (_file, digest, size) = file.finish();
        if let Some((expected, expected_size)) = expected {
            if size != expected_size {
                return Err(IngestError::Size { expected: expected_size, found: size });
            }
            if digest != expected {
                return Err(IngestError::Mismatch { expected, found: digest });
            }
        }
        let path = unnamed.content.path(&digest);
        let handle = &unnamed.content.handle;
        let no_gc = handle.no_gc()?;
        handle.hold(&no_gc, Held::Blob(digest))?;
        // Replaces a blob of the same name: equal bytes, or damaged ones that this mends.
        fs::rename(&unnamed.path, &path).at("write", &path)?;
        handle.budget().add(size);
        unnamed.path = PathBuf::new();
        Ok(Blob { digest, size })
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Reads a blob and checks its digest at the end.
#[derive(Debug)]
pub struct BlobReader {
    /// Present until the end was reached and checked.
    file: Option<HashingReader<File>>,
    digest: Digest,
    content: Content,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(file) = self.file.as_mut() else { return Ok(0) };
        let count = file.read(buffer)?;
        if count > 0 || buffer.is_empty() {
            return Ok(count);
        }
        let found = self.file.take().map(|file| file.finish().1);
        if found == Some(self.digest) {
            return Ok(0);
        }
        self.content.discard_damaged(&self.digest).map_err(io::Error::other)?;
        let text = format!("blob {} is damaged and was removed", self.digest);
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}
