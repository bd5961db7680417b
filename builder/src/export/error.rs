//! Why an image could not be written out.

use std::io;
use std::path::PathBuf;

use cache::Digest;

use crate::error::ErrorKind;
use crate::registry::RegistryError;
use crate::source::SourceError;

/// Why an image could not be written out.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Its parts could not be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The registry did not take it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The archive's file could not be made or replaced.
    #[error("could not write `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive could not be written on.
    #[error("could not write the archive")]
    Archive {
        /// Why.
        source: io::Error,
    },
    /// The root filesystem could not be written out.
    #[error("could not write the root filesystem")]
    Tree(#[from] crate::rootfs::ExportError),
    /// A part of the image is no longer in the store, or no longer what it was.
    #[error("blob `{digest}` of the store is missing or damaged")]
    Damaged {
        /// The part.
        digest: Digest,
    },
    /// An archive of Docker's holds one image a name.
    #[error(
        "an archive for docker holds images for one platform, and this is for {}; write type=oci",
        .platforms.join(", ")
    )]
    Platforms {
        /// What the image is for.
        platforms: Vec<String>,
    },
    /// An annotation is for an index, and there is none.
    #[error("the annotation `{key}` is for an index, and an image for one platform has none")]
    NoIndex {
        /// Its key.
        key: String,
    },
    /// A layer has another size than its descriptor promises.
    #[error("layer `{digest}` has {found} bytes where {expected} were promised")]
    LayerSize {
        /// The layer.
        digest: Digest,
        /// Bytes promised.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
}

impl ExportError {
    /// Returns who must act.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Source(error) => error.kind(),
            Self::Registry(error) => error.kind(),
            Self::Platforms { .. } | Self::NoIndex { .. } => ErrorKind::User,
            Self::File { .. }
            | Self::Archive { .. }
            | Self::Tree(_)
            | Self::Damaged { .. }
            | Self::LayerSize { .. } => ErrorKind::Host,
        }
    }
}
