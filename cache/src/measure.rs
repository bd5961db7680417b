//! How much room things take on the disk.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::found;

/// Bytes of one block as stat(2) counts them, whatever the file system's own blocks are.
pub(crate) const BLOCK: u64 = 512;

/// Returns the bytes that a tree takes on the disk; hard links count once.
///
/// What cannot be looked at (paths beyond `PATH_MAX`, files that vanish meanwhile) counts as
/// nothing.
pub(crate) fn disk_bytes(path: &Path) -> u64 {
    let mut bytes = 0_u64;
    let mut linked = HashSet::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(data) = fs::symlink_metadata(&path) else { continue };
        if data.nlink() == 1 || data.is_dir() || linked.insert((data.dev(), data.ino())) {
            bytes = bytes.saturating_add(data.blocks().saturating_mul(BLOCK));
        }
        if data.is_dir()
            && let Ok(entries) = fs::read_dir(&path)
        {
            waiting.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    bytes
}

/// Returns the bytes of one file or directory, without what is in it; 0 when there is none.
pub(crate) fn own_bytes(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |data| data.blocks().saturating_mul(BLOCK))
}

/// As [`disk_bytes`], of directories in `closed` only themselves.
pub(crate) fn disk_bytes_around(root: &Path, closed: &HashSet<PathBuf>) -> u64 {
    let mut bytes = own_bytes(root);
    let Ok(entries) = fs::read_dir(root) else { return bytes };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|data| data.is_dir());
        bytes = bytes.saturating_add(match (is_dir, closed.contains(&path)) {
            (false, _) | (true, true) => own_bytes(&path),
            (true, false) => disk_bytes_around(&path, closed),
        });
    }
    bytes
}

/// Returns the bytes of the snapshot at `dir`, measured once: it never changes.
pub(crate) fn snapshot_bytes(dir: &Path) -> io::Result<u64> {
    let note = dir.join("size");
    if let Some(text) = found(fs::read_to_string(&note))?
        && let Ok(bytes) = text.trim().parse::<u64>()
    {
        return Ok(around(dir) + bytes);
    }
    let bytes = disk_bytes(&dir.join("fs"));
    // Torn, it would only misjudge a budget; a full disk or one that can only be read has no place
    // for it.
    let _may_fail = fs::write(&note, bytes.to_string());
    Ok(around(dir) + bytes)
}

/// What belongs to a snapshot beside its files.
fn around(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let paths = entries.flatten().map(|entry| entry.path());
    let beside = paths.filter(|path| !path.ends_with("fs")).map(|path| own_bytes(&path));
    beside.fold(own_bytes(dir), u64::saturating_add)
}
