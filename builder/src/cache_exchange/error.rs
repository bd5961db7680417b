//! Why a cache could not be read or written.

use std::io;
use std::path::PathBuf;

use cache::DiffId;

use crate::error::ErrorKind;
use crate::export::ExportError;
use crate::registry::RegistryError;
use crate::source::SourceError;

/// Why a cache could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The registry did not give it, or did not take it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A layer could not be had, or the store failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A layer could not be compressed.
    #[error(transparent)]
    Export(Box<ExportError>),
    /// A file of a local cache cannot be read or written.
    #[error("could not {action} `{}`", path.display())]
    File {
        /// `read`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What is there is no cache of ours.
    #[error("`{name}` is an image; a cache needs a name of its own")]
    NotACache {
        /// Of the cache.
        name: String,
    },
    /// A document is longer than any honest one.
    #[error("a document of the cache `{name}` has more than {limit} bytes")]
    TooLarge {
        /// Of the cache.
        name: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The cache was changed by others again and again.
    #[error("the cache `{name}` was changed by others {tries} times while it was written")]
    Contended {
        /// Of the cache.
        name: String,
        /// How often it was tried.
        tries: u32,
    },
    /// A layer that an entry promises cannot be had.
    #[error("the layer `{}` cannot be had from the cache", diff_id.0)]
    Lost {
        /// The layer.
        diff_id: DiffId,
    },
    /// The key to sign with, or one to check by, cannot be used.
    #[error("the key in `{}` cannot be used: {reason}", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl ExchangeError {
    /// Tells who must act.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Registry(error) => error.kind(),
            Self::Source(error) => error.kind(),
            Self::Export(error) => error.kind(),
            Self::File { .. } => ErrorKind::Host,
            Self::NotACache { .. } | Self::Key { .. } => ErrorKind::User,
            Self::TooLarge { .. } | Self::Contended { .. } | Self::Lost { .. } => ErrorKind::Remote,
        }
    }
}

impl From<ExportError> for ExchangeError {
    fn from(error: ExportError) -> Self {
        Self::Export(Box::new(error))
    }
}
