//! Layers: snapshots as tar archives, there and back.
//!
//! Invariants: one reader parses every tar that comes from outside, with bounds on all it yields.
//! Archives are applied through directory descriptors only. What is written depends on the tree
//! alone: never on the order of a directory, the number of threads or the time of day.

mod apply;
mod compress;
mod decompress;
mod entry;
mod estargz;
mod gzip;
mod header;
mod pieces;
mod read;
mod small_files;
mod sparse;
mod tar_writer;
mod unpack;
mod write;

pub use apply::{ApplyError, apply_layer, merge_layer};
pub use compress::{CompressError, Compression, StreamWriter, ZstdWriter, zstd_writer};
pub use decompress::{DecompressError, LimitedReader, decompress};
pub use entry::{TarEntry, TarKind};
pub use estargz::{Estargz, write_estargz};
pub use gzip::{GzipWriter, gzip_level_writer, gzip_writer};
pub use read::{TarError, TarReader};
pub use tar_writer::TarWriter;
pub use unpack::UnpackError;
pub use write::{WriteError, diff_id, write_layer};

pub(crate) use estargz::{TOC_DIGEST, UNCOMPRESSED_SIZE};
pub(crate) use pieces::{Piece, Room, What, write_pieces};
pub(crate) use small_files::SmallFile;
pub(crate) use unpack::{Devices, Owners, Policy, Whiteouts, begins_archive, unpack};
pub(crate) use write::{Told, write_layer_telling, write_layer_until};

/// Prefix of names that record deletions in a layer (image-spec, layer.md, "Whiteouts").
pub(crate) const WHITEOUT: &[u8] = b".wh.";

/// Name that records that a directory hides those of its name below it.
pub(crate) const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";

/// What an archive may hold. Each bound is named in the error that it causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of file content, uncompressed, all files together.
    pub bytes: u64,
    /// Bytes of one path or link target.
    pub path_bytes: usize,
    /// Directories above an entry.
    pub depth: usize,
}

impl Limits {
    /// For image layers and archives that ADD unpacks: beyond every real image, but finite.
    pub const LAYER: Self =
        Self { entries: 8_000_000, bytes: 512 << 30, path_bytes: 4095, depth: 512 };

    /// For build contexts that a client sends.
    pub const CONTEXT: Self =
        Self { entries: 4_000_000, bytes: 128 << 30, path_bytes: 4095, depth: 512 };
}

/// What went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerStats {
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
    /// Devices that this user namespace may not make.
    pub skipped_devices: u64,
    /// Sockets, which no archive can hold.
    pub skipped_sockets: u64,
    /// Objects whose owner this user namespace has no id for: they are root's instead.
    pub unmapped_owners: u64,
}
