//! ADD's archives: recognised by what they hold, unpacked into the destination.

use std::fs::File;

use super::copy::open_unchanged;
use super::select::{Entry, SelectError};
use crate::layer::{
    Devices, LayerStats, Limits, Owners, Policy, TarReader, UnpackError, Whiteouts, begins_archive,
    decompress, unpack,
};
use crate::rootfs::{Kind, LayeredRoot, Upper};

/// What an archive may need beside its files' content, in bytes: headers and padding.
const HEADERS: u64 = 16 << 30;

/// Whether the entry is a file that begins an archive.
pub(super) fn is_archive(root: &LayeredRoot, entry: &Entry) -> Result<bool, SelectError> {
    if entry.node.metadata.kind != Kind::File {
        return Ok(false);
    }
    let (file, _) = open_unchanged(root, entry)?;
    Ok(begins_archive(file))
}

/// Unpacks `file` onto `upper`. The archive's owners stay unless there is another; devices and
/// FIFOs are left out, as BuildKit does.
pub(super) fn unpack_archive(
    file: File,
    upper: Upper,
    owner: Option<(u32, u32)>,
) -> Result<LayerStats, UnpackError> {
    let limits = Limits::LAYER;
    let plain = decompress(file, limits.bytes + HEADERS).map_err(crate::layer::TarError::Io)?;
    let policy = Policy {
        whiteouts: Whiteouts::Refuse,
        devices: Devices::Skip,
        owners: owner.map_or(Owners::Archive, |(uid, gid)| Owners::Fixed(uid, gid)),
        root_entry: false,
    };
    Ok(unpack(TarReader::new(plain, limits), upper, policy, limits.depth)?.1)
}
