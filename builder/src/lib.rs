//! Build graph to image.
//!
//! Invariants: async at the top, blocking at the leaves, and one door between them. All mounts live
//! in helper processes. Events flow outward, cancellation flows inward, nothing calls up.

#![deny(unsafe_code)]

pub mod blocking;
mod config;
mod context;
mod error;
mod layer;
mod op;
mod progress;
mod request;
mod rootfs;

pub use config::{BuilderConfig, RegistryConfig};
pub use context::{ContextError, Rules, Verdict, unpack_context};
pub use error::{ErrorKind, causes};
pub use layer::{
    ApplyError, CompressError, DecompressError, GzipWriter, LayerStats, LimitedReader, Limits,
    TarEntry, TarError, TarKind, TarReader, TarWriter, UnpackError, WriteError, ZstdWriter,
    apply_layer, decompress, diff_id, gzip_writer, write_layer, zstd_writer,
};
pub use op::{
    CopyError, CopyInput, CopyStats, MakeDirError, SelectError, Selection, copy, make_dir, select,
    selection_digest,
};
pub use progress::{
    EVENT_BUFFER, Event, Events, Failure, Finished, OutputBytes, OutputStream, PlannedStep,
    SourceDiagnostic, SourceText, StepOutcome, Transfer, TransferPhase,
};
pub use request::{
    BuildRequest, ContextInput, Credentials, DockerfileInput, OutputKind, OutputSpec,
};
pub use rootfs::{
    DirEntry, ExportError, Follow, InodeId, Kind, LayeredRoot, Metadata, Node, Owner, Resolved,
    RootError, Time, UpperError, UserError, export_dir, export_tar, resolve_owner, resolve_user,
};
