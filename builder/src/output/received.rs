//! A tree that another machine made, as it arrives.

use std::io::Read;
use std::path::Path;

use crate::layer::{
    Devices, LayerStats, Limits, Owners, Policy, TarReader, UnpackError, Whiteouts, unpack,
};
use crate::rootfs::Upper;

/// Unpacks `tar` into the existing directory `dest`, as a build here would have written it: what is
/// there under other names stays, and only root can give files to others. No link of the tree or
/// of `dest` leads out of it. Blocking.
///
/// # Errors
///
/// [`UnpackError`].
pub fn unpack_tree(tar: impl Read, dest: &Path) -> Result<LayerStats, UnpackError> {
    let is_root = rustix::process::geteuid().is_root();
    let policy = Policy {
        whiteouts: Whiteouts::Keep,
        devices: if is_root { Devices::Make } else { Devices::Skip },
        owners: if is_root { Owners::Archive } else { Owners::Leave },
        root_entry: false,
    };
    let upper = Upper::open_plain(dest)?;
    let (_, stats) =
        unpack(TarReader::new(tar, Limits::LAYER), upper, policy, Limits::LAYER.depth)?;
    Ok(stats)
}
