//! Why an image could not be had.

use std::io;
use std::path::PathBuf;

use cache::{Descriptor, DiffId, Digest};

use crate::error::ErrorKind;
use crate::layer::ApplyError;
use crate::registry::{DocumentError, RegistryError};

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The registry did not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store could not be read or written.
    #[error("could not {action}")]
    Store {
        /// `keep the layer`.
        action: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A manifest or index that cannot be used.
    #[error("the manifest of {image} cannot be used")]
    Document {
        /// Name as people write it.
        image: String,
        /// What is wrong with it.
        source: Box<DocumentError>,
    },
    /// An index that leads to an index that leads to an index.
    #[error("{image} is an index of indexes of indexes")]
    Nested {
        /// Name as people write it.
        image: String,
    },
    /// The index and what it names disagree.
    #[error("{image} names a manifest of {} bytes, `{}`, which has {found} bytes", wanted.size, wanted.digest)]
    ManifestSize {
        /// Name as people write it.
        image: String,
        /// What the index says.
        wanted: Descriptor,
        /// Size in bytes of what came.
        found: u64,
    },
    /// The config is no image config.
    #[error("the config of {image} is not an image config")]
    Config {
        /// Name as people write it.
        image: String,
        /// The parser's words.
        source: serde_json::Error,
    },
    /// The config is larger than any honest one.
    #[error("the config of {image} has {size} bytes, more than the limit of {limit}")]
    ConfigTooLarge {
        /// Name as people write it.
        image: String,
        /// Bytes announced.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Config and manifest disagree.
    #[error("the config of {image} lists {diff_ids} layers and its manifest {layers}")]
    LayerCount {
        /// Name as people write it.
        image: String,
        /// Layers of the config.
        diff_ids: usize,
        /// Layers of the manifest.
        layers: usize,
    },
    /// A `diff_id` that is no digest.
    #[error("the config of {image} lists `{text}`, which is not a SHA-256 digest")]
    DiffIdForm {
        /// Name as people write it.
        image: String,
        /// As written.
        text: String,
    },
    /// The bytes of a layer could not be read as a compressed tar.
    #[error("layer `{digest}` could not be decompressed")]
    Decompress {
        /// The blob.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// The layer could not be unpacked.
    #[error("layer `{digest}` could not be unpacked")]
    Apply {
        /// The blob.
        digest: Digest,
        /// Why.
        source: Box<ApplyError>,
    },
    /// The uncompressed layer is not the one that the config names.
    #[error("layer `{digest}` unpacks to `{found}` where the config says `{expected}`")]
    DiffId {
        /// The blob.
        digest: Digest,
        /// What the config says.
        expected: DiffId,
        /// What came out.
        found: DiffId,
    },
    /// A snapshot no longer gives the layer that it was committed as.
    #[error(
        "the stored files of layer `{expected}` were changed: they now give `{found}`; build again \
         to make it anew"
    )]
    Damaged {
        /// What was committed.
        expected: DiffId,
        /// What the files give now.
        found: DiffId,
    },
    /// The layer could not be made again from its snapshot.
    #[error("could not make layer `{diff_id}` from its files")]
    Regenerate {
        /// The layer.
        diff_id: DiffId,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nobody has the bytes of a layer.
    #[error("the bytes of layer `{diff_id}` are neither in the store nor at a known registry")]
    Lost {
        /// The layer.
        diff_id: DiffId,
    },
    /// A layer that registries do not pass on, and the registry does not hold it either.
    #[error(
        "layer `{digest}` is not handed out by registries, and the other places that its manifest \
         names are not asked; push a copy of the image that holds it to a registry of yours"
    )]
    Foreign {
        /// The blob.
        digest: Digest,
    },
    /// Nobody is known who could have a blob.
    #[error("blob `{digest}` is not in the store, and no registry is known to hold it")]
    NoRegistry {
        /// The blob.
        digest: Digest,
    },
    /// A directory that is no OCI image layout, or lacks what is asked of it.
    #[error("the OCI layout `{}` cannot be used: {reason}", path.display())]
    Layout {
        /// As given.
        path: PathBuf,
        /// One sentence.
        reason: String,
    },
    /// A blob of an OCI image layout that is not what its name says.
    #[error("blob `{digest}` of the OCI layout `{}` cannot be used", path.display())]
    LayoutBlob {
        /// As given.
        path: PathBuf,
        /// The blob.
        digest: Digest,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Bytes could not be passed on.
    #[error("could not write layer `{diff_id}`")]
    Write {
        /// The layer.
        diff_id: DiffId,
        /// Why.
        source: io::Error,
    },
}

impl SourceError {
    /// Wraps a failure of the store.
    pub(crate) fn store<E>(action: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Self::Store { action, source: source.into() }
    }

    /// Returns who must act.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Registry(error) => error.kind(),
            Self::Apply { source, .. } => source.kind(),
            Self::Store { .. }
            | Self::Write { .. }
            | Self::Regenerate { .. }
            | Self::Damaged { .. } => ErrorKind::Host,
            Self::Document { source, .. } if matches!(**source, DocumentError::Platform { .. }) => {
                ErrorKind::User
            }
            Self::Lost { .. }
            | Self::Foreign { .. }
            | Self::NoRegistry { .. }
            | Self::Layout { .. }
            | Self::LayoutBlob { .. } => ErrorKind::User,
            Self::Document { .. }
            | Self::Nested { .. }
            | Self::ManifestSize { .. }
            | Self::Config { .. }
            | Self::ConfigTooLarge { .. }
            | Self::LayerCount { .. }
            | Self::DiffIdForm { .. }
            | Self::Decompress { .. }
            | Self::DiffId { .. } => ErrorKind::Remote,
        }
    }
}
