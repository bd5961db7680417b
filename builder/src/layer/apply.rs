//! A layer of an image onto a fresh snapshot.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::read::{TarError, TarReader};
use super::unpack::{Devices, Owners, Policy, UnpackError, Whiteouts, unpack};
use super::{LayerStats, Limits};
use crate::ErrorKind;
use crate::rootfs::{LayeredRoot, RootError, Upper, UpperError};

/// Why a layer cannot be applied.
#[derive(Debug, thiserror::Error)]
#[error("could not unpack the layer")]
pub struct ApplyError(#[from] UnpackError);

impl ApplyError {
    /// Says who must act: a malformed layer is its publisher's, a full disk the host's.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind()
    }
}

impl UnpackError {
    /// Says who must act, taking the archive for a remote's.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Write(UpperError::Io { .. } | UpperError::Root(RootError::Io { .. })) => {
                ErrorKind::Host
            }
            Self::Archive(TarError::Io(error)) if error.raw_os_error().is_some() => ErrorKind::Host,
            _ => ErrorKind::Remote,
        }
    }
}

/// Unpacks the uncompressed layer `tar` into the empty directory `upper`, as a snapshot on top of
/// `parents` (topmost first), and returns what was in it.
///
/// `tar` is read to its very end, so that the caller can take the diff_id in passing. `parents`
/// give directories that the layer implies their mode and owner, and hold what its hard links may
/// name. In a user namespace, devices are left out and owners without a mapped id become root;
/// both are counted. Nothing is synced.
///
/// # Errors
///
/// [`ApplyError`]; `upper` is then of no use.
pub fn apply_layer(
    tar: impl Read,
    upper: &Path,
    parents: &[PathBuf],
    limits: &Limits,
) -> Result<LayerStats, ApplyError> {
    apply(tar, upper, parents, limits, Whiteouts::Apply)
}

/// As [`apply_layer`], with the layers in `upper` that lie below: afterwards it is one layer that
/// gives what they and `tar` give one above the other. `tar` is as
/// [`write_layer`](super::write_layer) writes it; it is read to its very end. Nothing is synced.
///
/// # Errors
///
/// [`ApplyError`]; `upper` is then of no use.
pub fn merge_layer(
    tar: impl Read,
    upper: &Path,
    parents: &[PathBuf],
    limits: &Limits,
) -> Result<LayerStats, ApplyError> {
    apply(tar, upper, parents, limits, Whiteouts::Merge)
}

fn apply(
    tar: impl Read,
    upper: &Path,
    parents: &[PathBuf],
    limits: &Limits,
    whiteouts: Whiteouts,
) -> Result<LayerStats, ApplyError> {
    let policy =
        Policy { whiteouts, devices: Devices::Make, owners: Owners::Archive, root_entry: true };
    let below = LayeredRoot::open(parents).map_err(UnpackError::from)?;
    let upper = Upper::open(upper, &below).map_err(UnpackError::from)?.keep_lower_times();
    let (_, stats) = unpack(TarReader::new(tar, *limits), upper, policy, limits.depth)?;
    Ok(stats)
}
