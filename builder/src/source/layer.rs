//! The bytes of a layer, wherever this machine has them.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use cache::{
    Descriptor, DiffId, Digest, HashingReader, HashingWriter, LayerBlob, LayerRecord, Store,
};

use super::error::SourceError;
use super::image::Layer;
use crate::layer::{CompressError, Limits, decompress, write_layer_until};
use crate::registry::document::OCI_LAYER;

/// Copied at once, bytes.
const BUFFER: usize = 256 << 10;

/// Where the bytes of one layer are. Found, not opened: both kinds can be read again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerSource {
    /// A blob in the store: what a registry gave, or what was compressed for an earlier export.
    Blob {
        /// Media type, digest and size of the blob.
        blob: Descriptor,
        /// Its file.
        path: PathBuf,
    },
    /// The directory that the layer was committed as; its tar is made again.
    Snapshot {
        /// The directory, in the form of an overlay's upper.
        upper: PathBuf,
        /// What stands for all later times in the layer, in seconds since 1970.
        latest: Option<i64>,
    },
}

impl LayerSource {
    /// Looks for `layer`; `None` when its bytes must be fetched. Blocking.
    ///
    /// A blob goes before a snapshot: the tar of a pulled layer cannot be made again. One that some
    /// other image merely says to hold the layer comes last.
    ///
    /// # Errors
    ///
    /// [`SourceError::Store`].
    pub fn find(store: &Store, layer: &Layer) -> Result<Option<Self>, SourceError> {
        if store.content().contains(&layer.descriptor.digest) {
            return Ok(Some(Self::blob(store, layer.descriptor.clone())));
        }
        let record = record_of(store, layer.diff_id)?;
        if let Some(found) = Self::known(store, record.as_ref())? {
            return Ok(Some(found));
        }
        let claimed = record.iter().flat_map(|record| &record.blobs);
        let mut claimed = claimed.filter(|blob| store.content().contains(&blob.digest));
        Ok(claimed.next().map(|blob| Self::blob(store, described(blob))))
    }

    /// As [`LayerSource::find`], of what is known to be the layer, whoever asks. Blocking.
    ///
    /// # Errors
    ///
    /// [`SourceError::Store`].
    pub(crate) fn find_known(store: &Store, diff_id: DiffId) -> Result<Option<Self>, SourceError> {
        Self::known(store, record_of(store, diff_id)?.as_ref())
    }

    fn known(store: &Store, record: Option<&LayerRecord>) -> Result<Option<Self>, SourceError> {
        let Some(record) = record else { return Ok(None) };
        let mut checked = record.blobs.iter().filter(|blob| blob.checked);
        if let Some(blob) = checked.find(|blob| store.content().contains(&blob.digest)) {
            return Ok(Some(Self::blob(store, described(blob))));
        }
        let Some(id) = &record.snapshot else { return Ok(None) };
        let found = store.snapshots().get(id).map_err(SourceError::store("read a snapshot"))?;
        let latest = record.latest;
        Ok(found.map(|snapshot| Self::Snapshot { upper: snapshot.fs, latest }))
    }

    fn blob(store: &Store, blob: Descriptor) -> Self {
        let path = store.content().path(&blob.digest);
        Self::Blob { blob, path }
    }

    /// Writes the uncompressed tar of the layer `expected` to `out` and returns its size in
    /// bytes. What was written is the layer only if this returns without an error. Blocking.
    ///
    /// # Errors
    ///
    /// [`SourceError::DiffId`] and [`SourceError::Damaged`] when the bytes are others, and
    /// whatever reading and writing can fail with.
    pub fn write_tar(&self, expected: DiffId, out: impl Write) -> Result<u64, SourceError> {
        match self {
            Self::Blob { blob, path } => {
                let mut tar = HashingReader::new(open_tar(blob, path)?);
                let mut out = out;
                copy(&mut tar, &mut out).map_err(|error| match error {
                    CopyError::Read(source) => {
                        SourceError::Decompress { digest: blob.digest, source }
                    }
                    CopyError::Write(source) => SourceError::Write { diff_id: expected, source },
                })?;
                let (_, found, size) = tar.finish();
                check_diff_id(&blob.digest, expected, found)?;
                Ok(size)
            }
            Self::Snapshot { upper, latest } => {
                let mut hashing = HashingWriter::new(out);
                write_layer_until(upper, *latest, &mut hashing).map_err(|source| {
                    SourceError::Regenerate { diff_id: expected, source: source.into() }
                })?;
                let (_, found, size) = hashing.finish();
                if found == expected.0 {
                    Ok(size)
                } else {
                    Err(SourceError::Damaged { expected, found: DiffId(found) })
                }
            }
        }
    }
}

impl LayerSource {
    /// Has `read` read the uncompressed tar of the layer `expected`; returns what it made of it and
    /// the tar's size in bytes. What was read is the layer only if this returns without an error.
    /// Blocking.
    ///
    /// # Errors
    ///
    /// As [`LayerSource::write_tar`], and what `read` returns.
    pub(crate) fn read_tar<T>(
        &self,
        expected: DiffId,
        read: impl FnOnce(io::PipeReader) -> Result<T, CompressError>,
    ) -> Result<(T, u64), SourceError> {
        let (reader, writer) = io::pipe().map_err(SourceError::store("make a pipe"))?;
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || {
                let mut out = BufWriter::with_capacity(BUFFER, writer);
                let size = self.write_tar(expected, &mut out)?;
                let fault = |source| SourceError::Write { diff_id: expected, source };
                out.flush().map_err(fault)?;
                Ok::<u64, SourceError>(size)
            });
            // The writer fails with the reader, whose error is then the cause.
            let taken = read(reader).map_err(SourceError::store("compress a layer"));
            let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((taken?, written?))
        })
    }
}

fn record_of(store: &Store, diff_id: DiffId) -> Result<Option<LayerRecord>, SourceError> {
    store.layers().get(&diff_id).map_err(SourceError::store("read a layer's record"))
}

/// Opens a blob as the tar that it holds, whatever it is compressed with.
pub(crate) fn open_tar(
    blob: &Descriptor,
    path: &Path,
) -> Result<Box<dyn Read + Send>, SourceError> {
    let file = File::open(path).map_err(SourceError::store("read a layer"))?;
    decompress(BufReader::with_capacity(BUFFER, file), Limits::LAYER.bytes)
        .map_err(|source| SourceError::Decompress { digest: blob.digest, source })
}

/// Compares what came out of blob `digest` with what should have.
pub(super) fn check_diff_id(
    digest: &Digest,
    expected: DiffId,
    found: Digest,
) -> Result<(), SourceError> {
    if found == expected.0 {
        return Ok(());
    }
    Err(SourceError::DiffId { digest: *digest, expected, found: DiffId(found) })
}

/// Returns the descriptor of a layer that exists as a snapshot only: its uncompressed tar of
/// `size` bytes.
#[must_use]
pub fn built_layer(diff_id: DiffId, size: u64) -> Descriptor {
    Descriptor { media_type: OCI_LAYER.to_owned(), digest: diff_id.0, size }
}

/// Returns the descriptor of a noted blob.
pub(super) fn described(blob: &LayerBlob) -> Descriptor {
    Descriptor { media_type: blob.media_type.clone(), digest: blob.digest, size: blob.size }
}

/// Which side of a copy failed.
pub(crate) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Copies until the end, and tells the two sides' errors apart.
pub(crate) fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<u64, CopyError> {
    let mut buffer = vec![0; BUFFER];
    let mut copied = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(error)),
        };
        to.write_all(&buffer[..read]).map_err(CopyError::Write)?;
        copied += read as u64;
    }
}
