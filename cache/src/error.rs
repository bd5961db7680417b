//! The failures that all parts of the store share, and who must act on them.

use std::io;
use std::path::{Path, PathBuf};

use crate::snapshot::SnapshotId;

/// Who must act on a failure: picks the exit code, the HTTP status and whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller asked for something that cannot be.
    User,
    /// The other end of a connection sent something wrong.
    Remote,
    /// This machine: a full or read-only disk, missing permissions.
    Host,
    /// This program.
    Bug,
}

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused; `action` is a verb in the infinitive.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The snapshot was removed, or found damaged, since its id was learnt.
    #[error("snapshot `{id}` is not in the store")]
    NoSnapshot {
        /// The id asked for.
        id: SnapshotId,
    },
    /// The disk has no room for what is about to be written, even after gc.
    #[error(
        "there is no room in the store at `{}`: {need} bytes are needed and {free} are free; \
         `rbuild prune --all` removes what is cached", root.display()
    )]
    NoRoom {
        /// The store.
        root: PathBuf,
        /// Bytes needed.
        need: u64,
        /// Bytes free.
        free: u64,
    },
    /// A document is larger than the caller wants to hold in memory.
    #[error("`{}` has {size} bytes, more than the limit of {limit}", path.display())]
    TooLarge {
        /// The document.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
}

impl StoreError {
    /// Returns who must act.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } | Self::NoSnapshot { .. } | Self::NoRoom { .. } => ErrorKind::Host,
            Self::TooLarge { .. } => ErrorKind::Remote,
        }
    }
}

/// What the store's operations return.
pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Adds to a system error what was tried on which path.
pub(crate) trait AtPath<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> AtPath<T> for std::result::Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|error| StoreError::Io { action, path: path.to_owned(), source: error.into() })
    }
}

/// Turns "there is no such file" into `None`.
pub(crate) fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
