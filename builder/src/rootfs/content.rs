//! Copying what a file holds: in the kernel where it can, with holes kept.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use bytes::BytesMut;
use rustix::fs::{SeekFrom, ftruncate, seek};
use rustix::io::Errno;

use super::metadata::Metadata;

/// Files up to this many bytes are read and written by one call each: copying them in the kernel
/// takes as many calls again, to find out that it can be done and that there is no more.
const SMALL: usize = 64 << 10;

/// Copies all of `from` into the new, empty file `to` and returns the number of bytes.
///
/// A sparse file stays sparse: its holes cost no space and no time. Of a file that grows meanwhile
/// there may be less than all: who cares looks at it again afterwards.
pub(crate) fn copy_content(from: &File, to: &File, metadata: &Metadata) -> io::Result<u64> {
    copy_content_by(&mut BytesMut::new(), from, to, metadata)
}

/// As [`copy_content`]; `buffer` has all that a small file holds afterwards, and is empty after any
/// other.
pub(crate) fn copy_content_by(
    buffer: &mut BytesMut,
    from: &File,
    to: &File,
    metadata: &Metadata,
) -> io::Result<u64> {
    buffer.clear();
    if metadata.is_sparse() {
        return copy_sparse(from, to, metadata);
    }
    match usize::try_from(metadata.size) {
        Ok(size) if size <= SMALL => copy_small(buffer, from, to, size),
        _ => io::copy(&mut &*from, &mut &*to),
    }
}

fn copy_small(
    buffer: &mut BytesMut,
    mut from: &File,
    mut to: &File,
    size: usize,
) -> io::Result<u64> {
    buffer.resize(size, 0);
    let mut filled = 0;
    while filled < size {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    to.write_all(buffer)?;
    Ok(filled as u64)
}

fn copy_sparse(from: &File, to: &File, metadata: &Metadata) -> io::Result<u64> {
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
