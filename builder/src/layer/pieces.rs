//! A layer written while its snapshot is: from pieces that tell what was put into it.
//!
//! Who makes the snapshot hands over each object once it has its final attributes, as the file
//! system has them, and in the order of the archive. Small files bring their content along, which
//! nobody has to read again. Invariant: the bytes are those that [`super::write_layer`] makes of
//! the finished snapshot. Where that cannot be promised there is no layer from pieces.

use std::cmp::Ordering;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering as Memory};

use bytes::Bytes;

use super::LayerStats;
use super::small_files::{SMALL, SmallFile};
use super::write::{LayerWriter, MAX_DEPTH, Told, WriteError};
use crate::rootfs::{Dir, Metadata, Xattrs, components};

/// Bytes of content that wait to be written at most.
const MOST_BYTES: usize = 1 << 20;

/// One object of a snapshot.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) path: Bytes,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Dir {
        metadata: Metadata,
        xattrs: Xattrs,
        is_opaque: bool,
    },
    /// A regular file with one name and without attributes.
    Small(SmallFile),
    /// A regular file that is read when its turn comes.
    File {
        dir: Arc<Dir>,
        name: Vec<u8>,
    },
    /// A symlink or a special file.
    Other {
        metadata: Metadata,
        link: Vec<u8>,
    },
}

/// Room for the content of small files on their way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room(Arc<AtomicUsize>);

impl Room {
    /// Whether a file of `size` bytes may wait with its content; if so it must be written.
    pub(crate) fn take(&self, size: u64) -> bool {
        let Some(size) = usize::try_from(size).ok().filter(|_| size <= SMALL) else { return false };
        let is_taken = self.0.fetch_add(size, Memory::Relaxed) + size <= MOST_BYTES;
        if !is_taken {
            self.give(size);
        }
        is_taken
    }

    fn give(&self, size: usize) {
        self.0.fetch_sub(size, Memory::Relaxed);
    }
}

/// Writes `pieces` to `out` as [`super::write::write_layer_telling`] would write the snapshot that
/// they are all of; `None` if they do not come in the order of the archive.
///
/// # Errors
///
/// [`WriteError`].
pub(crate) fn write_pieces(
    pieces: impl Iterator<Item = Piece>,
    room: &Room,
    latest: Option<i64>,
    out: impl Write,
    tell: &mut dyn FnMut(Told<'_>),
) -> Result<Option<LayerStats>, WriteError> {
    let mut writer = LayerWriter::new(out, latest, Some(tell));
    let mut last = Bytes::new();
    for Piece { path, what } in pieces {
        let depth = components(&path).count();
        if order(&last, &path) != Ordering::Less || depth > MAX_DEPTH {
            return Ok(None);
        }
        last.clone_from(&path);
        let path = path.to_vec();
        match what {
            What::Dir { metadata, xattrs, is_opaque } => {
                writer.dir_entry(&path, metadata, xattrs, is_opaque)?;
            }
            What::Small(file) => {
                let size = file.content.len();
                writer.small_file(path, file)?;
                room.give(size);
            }
            What::File { dir, name } => writer.file(&dir, &name, path)?,
            What::Other { metadata, link } => writer.other(path, metadata, link)?,
        }
    }
    writer.finish().map(Some)
}

/// Tells which path comes first in an archive: names by their raw bytes, parents before children.
fn order(a: &[u8], b: &[u8]) -> Ordering {
    components(a).cmp(components(b))
}
