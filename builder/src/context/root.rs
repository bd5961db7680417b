//! A directory from outside: the build's context, or a named one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cache::{Store, TempDir};

use super::{KnownFiles, Rules};
use crate::error::ErrorKind;
use crate::rootfs::{LayeredRoot, RootError};

/// Why a directory from outside cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileRootError {
    /// Nothing lies there.
    #[error("the build context `{}` does not exist", path.display())]
    NotFound {
        /// As given.
        path: PathBuf,
    },
    /// Something else than a directory lies there.
    #[error("the build context `{}` is not a directory", path.display())]
    NotADirectory {
        /// As given.
        path: PathBuf,
    },
    /// The host's file system failed.
    #[error("could not open the build context `{}`", path.display())]
    Io {
        /// As given.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A file in it cannot be read.
    #[error(transparent)]
    Root(#[from] RootError),
}

impl FileRootError {
    /// Says who must act: the directory is the user's.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::User
    }
}

/// A directory from outside with the rules of its ignore file.
#[derive(Debug)]
pub(crate) struct FileRoot {
    /// Absolute: the sandbox's helpers have another working directory than this process.
    pub(crate) dir: PathBuf,
    pub(crate) root: LayeredRoot,
    /// `None` keeps everything.
    pub(crate) rules: Option<Rules>,
    /// Stands in where there are no rules.
    keep_all: Rules,
    /// What is known of its files from earlier builds; `None` where times cannot be relied on.
    known: Option<KnownFiles>,
    /// What the directory lies in, if it is to go with this.
    held: Option<Arc<TempDir>>,
}

impl FileRoot {
    /// Opens a directory.
    pub(crate) fn open(dir: &Path) -> Result<Self, FileRootError> {
        let path = || dir.to_owned();
        match fs::metadata(dir) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(FileRootError::NotADirectory { path: path() }),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                return Err(FileRootError::NotFound { path: path() });
            }
            Err(source) => return Err(FileRootError::Io { path: path(), source }),
        }
        let root = LayeredRoot::open_plain(dir)?;
        let absolute = std::path::absolute(dir);
        Ok(Self {
            dir: absolute.map_err(|source| FileRootError::Io { path: path(), source })?,
            root,
            rules: None,
            keep_all: Rules::keep_all(),
            known: None,
            held: None,
        })
    }

    /// Puts the directory under rules.
    pub(crate) fn with_rules(self, rules: Option<Rules>) -> Self {
        Self { rules, ..self }
    }

    /// Keeps `held`, which the directory lies in, for as long as this is used.
    pub(crate) fn holding(self, held: impl Into<Arc<TempDir>>) -> Self {
        Self { held: Some(held.into()), ..self }
    }

    /// Takes what earlier builds learnt of its files from `store`.
    pub(crate) fn with_known_files(self, store: &Store) -> Self {
        let known = KnownFiles::load(store, &self.dir, &self.root);
        Self { known, ..self }
    }

    /// Returns what is known of its files.
    pub(crate) fn known(&self) -> Option<&KnownFiles> {
        self.known.as_ref()
    }

    /// Returns the rules that are in force.
    pub(crate) fn rules(&self) -> &Rules {
        self.rules.as_ref().unwrap_or(&self.keep_all)
    }

    /// Whether the directory lies there for this build only.
    pub(crate) fn is_temporary(&self) -> bool {
        self.held.is_some()
    }

    /// Opens a regular file as [`Self::read_file`] does.
    pub(crate) fn open_file(&self, path: &str) -> Result<Option<fs::File>, FileRootError> {
        found(self.root.open_file(path))
    }

    /// Reads a regular file of at most `limit` bytes, symlinks followed inside the directory;
    /// `None` when there is nothing. Ignore rules do not apply.
    pub(crate) fn read_file(
        &self,
        path: &str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, FileRootError> {
        found(self.root.read_file(path, limit))
    }
}

fn found<T>(result: Result<T, RootError>) -> Result<Option<T>, FileRootError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(RootError::NotFound { .. } | RootError::NotADirectory { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
