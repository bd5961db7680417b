//! Copying what a file holds: in the kernel where it can, with holes kept.

use std::fs::File;
use std::io;

use rustix::fs::{SeekFrom, ftruncate, seek};
use rustix::io::Errno;

use super::metadata::Metadata;

/// Copies all of `from` into the new, empty file `to` and returns the number of bytes.
///
/// A sparse file stays sparse: its holes cost no space and no time.
pub(crate) fn copy_content(from: &File, to: &File, metadata: &Metadata) -> io::Result<u64> {
    if !metadata.is_sparse() {
        return io::copy(&mut &*from, &mut &*to);
    }
    let mut end = 0;
    while let Some(start) = next(from, SeekFrom::Data(end))? {
        end = next(from, SeekFrom::Hole(start))?.unwrap_or(metadata.size);
        seek(from, SeekFrom::Start(start))?;
        seek(to, SeekFrom::Start(start))?;
        io::copy(&mut io::Read::take(from, end - start), &mut &*to)?;
    }
    ftruncate(to, metadata.size)?;
    Ok(metadata.size)
}

/// Finds where data or a hole begins; `None` past the last of it (lseek(2), `ENXIO`).
fn next(file: &File, position: SeekFrom) -> io::Result<Option<u64>> {
    match seek(file, position) {
        Ok(offset) => Ok(Some(offset)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
