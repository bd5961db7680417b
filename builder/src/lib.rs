//! Build graph to image.
//!
//! Invariants: async at the top, blocking at the leaves, and one door between them. All mounts live
//! in helper processes. Events flow outward, cancellation flows inward, nothing calls up.

#![deny(unsafe_code)]

pub mod blocking;
mod build;
mod builder;
mod cache_exchange;
mod check;
mod config;
mod context;
mod doctor;
mod entitlement;
mod error;
mod explain;
mod export;
mod history;
mod image;
mod key;
mod layer;
mod limits;
mod op;
mod output;
mod progress;
mod registry;
mod request;
mod rootfs;
mod run_image;
mod sandbox;
mod secret;
mod shell;
mod solver;
mod source;
mod spool;
mod ssh;
mod tree;
mod userns;

pub use builder::{Builder, OpenError, Pulled, Pushed};
pub use cache_exchange::{
    CacheCompression, CacheFrom, CacheMode, CachePlace, CacheTo, ExchangeError,
};
pub use config::{BuilderConfig, CacheConfig, HistoryLimits, RegistryConfig, processors};
pub use context::{ContextError, FileRootError, Rules, Verdict, unpack_context};
pub use doctor::{Finding, Health, doctor};
pub use entitlement::{Entitlement, Entitlements};
pub use error::{ErrorKind, causes};
pub use explain::{Answer, Earlier, Lookup};
pub use export::{
    ArchiveDest, ArchiveKind, ExportError, ExportImage, ImportOptions, LoadError, export, import,
    load, push,
};
pub use history::RecordedEvent;
pub use image::{HistoryRow, ImageDetails, ImageError, ImageSummary, Removed};
pub use layer::{
    ApplyError, CompressError, DecompressError, GzipWriter, LayerStats, LimitedReader,
    Limits as ArchiveLimits, TarEntry, TarError, TarKind, TarReader, TarWriter, UnpackError,
    WriteError, ZstdWriter, apply_layer, decompress, diff_id, gzip_writer, write_layer,
    zstd_writer,
};
pub use limits::{Bound, CpuTime, LimitError, Limits, StepUsage, ULIMIT_NAMES, Ulimit};
pub use op::{
    CopyError, CopyInput, CopyStats, MakeDirError, PROXY_NAMES, SelectError, Selection, copy,
    make_dir, select, selection_digest,
};
pub use progress::{
    EVENT_BUFFER, Event, Events, Failure, Finished, OutputBytes, OutputStream, PlannedStep,
    SourceDiagnostic, SourceText, StepOutcome, Transfer, TransferPhase,
};
pub use registry::{
    CredentialError, DocumentError, ManifestName, Patience, Registry, RegistryError, Repository,
};
pub use request::{
    BuildRequest, ContextInput, Credentials, DockerfileInput, OutputKind, OutputSpec,
};
pub use rootfs::{
    DirEntry, ExportError as TreeError, Follow, InodeId, Kind, LayeredRoot, Metadata, Node, Owner,
    Resolved, RootError, Time, UpperError, UserError, export_dir, export_tar, resolve_owner,
    resolve_user,
};
pub use run_image::{RunRequest, Volume};
pub use sandbox::{
    Control, Dns, Ended, Exit, HELPER_ARG, MountSource, Network, OverlayDirs, PortForward, Sandbox,
    SandboxError, SandboxMount, SandboxSpec, SecretVariable, StdioMode, helper_main,
};
pub use secret::{SECRET_LIMIT, Secret, Secrets};
pub use shell::{ShellCommand, ShellError, ShellRequest};
pub use source::{
    Distribution, GitError, HttpError, Layer, LayerSource, PullPolicy, RemoteError, ResolvedImage,
    SourceError, Sources, built_layer, read_image, write_image,
};
pub use ssh::SshAgents;
pub use userns::{IdMapping, UsernsError, enter_user_namespace, has_single_id, lacks_privilege};
