//! A client's archive as a context directory.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::ErrorKind;
use crate::layer::{
    Devices, LayerStats, Limits, Owners, Policy, TarReader, UnpackError, Whiteouts, begins_archive,
    decompress, unpack,
};
use crate::rootfs::Upper;

/// What an archive may need beside its files' content, in bytes: headers and padding.
const HEADERS: u64 = 16 << 30;

/// Why an archive cannot be the context.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// Its compression is broken.
    #[error("could not decompress the context")]
    Compression(#[source] io::Error),
    /// The file that it was downloaded to cannot be read.
    #[error("could not read `{}`", path.display())]
    Read {
        /// In the store.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be unpacked.
    #[error("could not unpack the context")]
    Unpack(#[from] UnpackError),
}

impl ContextError {
    /// Says who must act: the archive is the user's.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } => ErrorKind::Host,
            Self::Unpack(error) if error.kind() == ErrorKind::Host => ErrorKind::Host,
            Self::Compression(_) | Self::Unpack(_) => ErrorKind::User,
        }
    }
}

/// Unpacks `tar`, plain or compressed by gzip, bzip2, xz or zstd, into the empty directory `dir`.
///
/// Owners are ignored: files of a context count as root's. Devices are refused; names of any
/// bytes, set-uid bits, times and the user's extended attributes are kept.
///
/// # Errors
///
/// [`ContextError`]; what is in `dir` is then of no use.
pub fn unpack_context(
    tar: impl Read + Send,
    dir: &Path,
    limits: &Limits,
) -> Result<LayerStats, ContextError> {
    let plain = decompress(tar, limits.bytes.saturating_add(HEADERS));
    let plain = plain.map_err(ContextError::Compression)?;
    let policy = Policy {
        whiteouts: Whiteouts::Keep,
        devices: Devices::Refuse,
        owners: Owners::Leave,
        root_entry: false,
    };
    let upper = Upper::open_plain(dir).map_err(UnpackError::from)?;
    let (_, stats) = unpack(TarReader::new(plain, *limits), upper, policy, limits.depth)?;
    Ok(stats)
}

/// Unpacks the file at `path` as [`unpack_context`] does, if it is an archive; says whether it is.
pub(crate) fn open_archive(path: &Path, dir: &Path, limits: &Limits) -> Result<bool, ContextError> {
    let open =
        || File::open(path).map_err(|source| ContextError::Read { path: path.to_owned(), source });
    if !begins_archive(open()?) {
        return Ok(false);
    }
    unpack_context(open()?, dir, limits)?;
    Ok(true)
}
