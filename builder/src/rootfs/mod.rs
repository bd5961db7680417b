//! Root filesystems as directories: reading a stack of snapshots as one tree, writing a new
//! snapshot on top of it, and looking users up in it.
//!
//! Invariants: nothing here mounts. Every path that a user or an image can influence is resolved
//! component by component on descriptors of the root.

mod content;
mod describe;
mod dir;
mod export;
mod merged;
mod metadata;
mod open_dir;
mod resolve;
mod upper;
mod users;

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

pub(crate) use export::export_tar_until;
pub use export::{ExportError, export_dir, export_tar};
pub use merged::{DirEntry, LayeredRoot, Node};
pub use metadata::{InodeId, Kind, Metadata, Time};
pub use resolve::{Follow, Resolved};
pub use users::{Owner, UserError, resolve_owner, resolve_user};

pub(crate) use content::{copy_content, copy_content_by};
pub(crate) use describe::{Attributes, Describer};
pub(crate) use dir::{Dir, Xattrs, fd_metadata, fd_xattrs, is_marked, is_portable};
pub(crate) use merged::MergedDir;
pub(crate) use open_dir::OpenDir;
pub(crate) use upper::Upper;
pub use upper::UpperError;

/// Why something in a root cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Nothing lies there.
    #[error("`{}` does not exist", path.display())]
    NotFound {
        /// Path in the root.
        path: PathBuf,
    },
    /// A directory was needed.
    #[error("`{}` is not a directory", path.display())]
    NotADirectory {
        /// Path in the root.
        path: PathBuf,
    },
    /// A regular file was needed.
    #[error("`{}` is not a regular file", path.display())]
    NotAFile {
        /// Path in the root.
        path: PathBuf,
    },
    /// Symlinks that lead to each other, or too long a chain of them.
    #[error("too many levels of symbolic links at `{}`", path.display())]
    TooManyLinks {
        /// Path in the root.
        path: PathBuf,
    },
    /// A file that must be small is not.
    #[error("`{}` is larger than {limit} bytes", path.display())]
    TooLarge {
        /// Path in the root.
        path: PathBuf,
        /// Bytes allowed.
        limit: u64,
    },
    /// The host's file system failed.
    #[error("could not read `{}`", path.display())]
    Io {
        /// Path in the root, or of the root.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Splits a path into its components; empty ones and `.` say nothing.
pub(crate) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && name != b".")
}

/// Splits a relative path into the directory and the last name.
pub(crate) fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Appends `name` to the relative path `dir`; either may be empty.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() || name.is_empty() {
        [dir, name].concat()
    } else {
        [dir, b"/", name].concat()
    }
}

/// Writes a path inside a root as its user sees it: absolute.
pub(crate) fn display_path(path: &[u8]) -> PathBuf {
    let names: Vec<&[u8]> = components(path).collect();
    PathBuf::from(OsString::from_vec([b"/", &names.join(&b'/')[..]].concat()))
}
