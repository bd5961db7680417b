//! Bytes to things with a digest: the store on disk.
//!
//! Invariants: blocking I/O only, no network, no async, no unsafe, no mount. A name appears after
//! its content. What is read back is checked, and damage is a miss, never a lie.

#![forbid(unsafe_code)]

mod content;
mod delete;
mod digest;
mod image;
mod index;
mod key;
mod layer;
mod layout;
mod sealed;
mod snapshot;
mod store;

pub use content::{Blob, BlobWriter, Content, IngestError};
pub use digest::{ChainId, DiffId, Digest, DigestError, HashingReader, HashingWriter, chain_id};
pub use image::{Descriptor, ImageRecord, Images};
pub use index::{Index, Record};
pub use key::{CacheKey, Component, KeyHasher};
pub use layer::{LayerBlob, LayerRecord, Layers};
pub use layout::{OpenError, TempDir};
pub use snapshot::{
    ActiveSnapshot, Snapshot, SnapshotError, SnapshotId, SnapshotIdError, Snapshots,
};
pub use store::{PruneError, PruneOptions, Pruned, Store, Usage};
