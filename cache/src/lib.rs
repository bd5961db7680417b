//! Bytes to things with a digest: the store on disk.
//!
//! Invariants: blocking I/O only, no network, no async, no unsafe, no mount. A name appears after
//! its content. What is read back is checked, and damage is a miss, never a lie. What a living
//! process looked up or made is never collected.

#![forbid(unsafe_code)]

mod build_events;
mod build_record;
mod build_steps;
mod cache_mount;
mod check;
mod content;
mod cutoff;
mod descriptor;
mod digest;
mod document;
mod error;
mod flight;
mod gc;
mod image;
mod index;
mod key;
mod layer;
mod layout;
mod lease;
mod lock;
mod measure;
mod miss;
mod reach;
mod reaper;
mod remove;
mod session;
mod snapshot;
mod stat_cache;
mod store;
mod trail;

pub use build_events::{EventLines, EventTail};
pub use build_record::{BuildHeader, BuildLog, BuildRecord, BuildResult, BuildSummary, Builds};
pub use build_steps::StepLog;
pub use cache_mount::{CacheMount, Sharing};
pub use check::{CheckReport, Fault};
pub use content::{Blob, BlobReader, BlobWriter, Content, IngestError};
pub use descriptor::Descriptor;
pub use digest::{ChainId, DiffId, Digest, DigestError, HashingReader, HashingWriter, chain_id};
pub use error::{ErrorKind, StoreError};
pub use flight::Flight;
pub use gc::{Amount, GcPolicy, Item, ItemKind, PruneOptions, Pruned, Sum, Usage};
pub use image::{FindError, ImageRecord, Images};
pub use index::{Index, Record};
pub use key::{CacheKey, Component, KeyHasher};
pub use layer::{LayerBlob, LayerForm, LayerRecord, Layers};
pub use layout::{OpenError, STORE_VERSION};
pub use miss::{Change, FileChanges, FileList, FileMark, Named, changes};
pub use remove::remove_tree;
pub use session::TempDir;
pub use snapshot::{ActiveSnapshot, Snapshot, SnapshotId, SnapshotIdError, Snapshots};
pub use stat_cache::{FileStat, StatCache};
pub use store::Store;
pub use trail::{Trail, TrailStep, Trails};
