//! Small files of a directory, read side by side before they are written in their order.

use std::io::{self, Read as _};

use bytes::Bytes;
use cache::Digest;
use rustix::fs::FileType;

use crate::rootfs::{Dir, Metadata, Xattrs, fd_xattrs};
use crate::side_by_side::Ahead;

/// Files of at most this many bytes are read ahead, or wait with their content.
pub(super) const SMALL: u64 = 16 << 10;

/// Files read ahead at most: together they stay below 4 MiB.
const MOST: usize = 256;

/// Files below which another thread costs more than it saves.
const WORTH_A_THREAD: usize = 32;

/// All that a layer says of one file.
#[derive(Debug)]
pub(crate) struct SmallFile {
    pub(crate) metadata: Metadata,
    pub(crate) xattrs: Xattrs,
    pub(crate) content: Bytes,
    /// Of the content, where it was asked for.
    pub(crate) digest: Option<Digest>,
}

/// Reads the first of `names`, which begin at `start`, up to what is no regular file. Those that are
/// not small, not plain or not readable are left to their turns.
pub(super) fn read_ahead(
    dir: &Dir,
    names: &[(Vec<u8>, FileType)],
    start: usize,
    with_digest: bool,
) -> Ahead<SmallFile> {
    let is_file = |(_, file_type): &&(_, FileType)| *file_type == FileType::RegularFile;
    let names = &names[..names.iter().take(MOST).take_while(is_file).count()];
    Ahead::of(start, names, WORTH_A_THREAD, |(name, _)| read(dir, name, with_digest).ok()?)
}

/// Reads one file; `None` if it is not small or not plain.
fn read(dir: &Dir, name: &[u8], with_digest: bool) -> io::Result<Option<SmallFile>> {
    let (file, metadata) = dir.open_file(name)?;
    if metadata.size > SMALL || metadata.links > 1 || metadata.may_be_marked() {
        return Ok(None);
    }
    let xattrs = fd_xattrs(&file)?;
    let mut content = Vec::with_capacity(usize::try_from(metadata.size).unwrap_or(0));
    (&file).take(metadata.size).read_to_end(&mut content)?;
    if content.len() as u64 != metadata.size {
        return Ok(None);
    }
    let digest = with_digest.then(|| Digest::of(&content));
    Ok(Some(SmallFile { metadata, xattrs, content: content.into(), digest }))
}
