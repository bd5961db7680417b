//! How much room things take on the disk.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::found;

/// Bytes of one block as stat(2) counts them, whatever the file system's own blocks are.
const BLOCK: u64 = 512;

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

/// Returns the bytes of the snapshot at `dir`, measured once: it never changes.
pub(crate) fn snapshot_bytes(dir: &Path) -> io::Result<u64> {
    let note = dir.join("size");
    if let Some(text) = found(fs::read_to_string(&note))?
        && let Ok(bytes) = text.trim().parse()
    {
        return Ok(bytes);
    }
    let bytes = disk_bytes(&dir.join("fs"));
    // Torn, it would only misjudge a budget.
    fs::write(&note, bytes.to_string())?;
    Ok(bytes)
}
