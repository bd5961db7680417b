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
mod growing;
mod hand_out;
mod heap;
mod history;
mod image;
mod key;
mod layer;
mod limits;
mod op;
mod output;
mod progress;
#[cfg(test)]
mod random;
mod registry;
mod relay;
mod request;
mod rootfs;
mod run_image;
mod sandbox;
mod secret;
mod shell;
mod side_by_side;
mod solver;
mod source;
mod spool;
mod ssh;
mod telemetry;
mod tree;
mod userns;
mod verify;

pub use build::is_directory_context;
pub use builder::{Builder, Entered, OpenError, Pulled, PushOptions, Pushed};
pub use cache_exchange::{CacheFrom, CacheMode, CachePlace, CacheTo, ExchangeError, merge_layouts};
pub use config::{
    BuilderConfig, CacheConfig, ClientCertificate, HistoryLimits, RegistryConfig, RegistryTls,
    processors,
};
pub use context::{ContextError, FileRootError, Rules, Verdict, unpack_context};
pub use doctor::{Finding, Health, doctor};
pub use entitlement::{Entitlement, Entitlements};
pub use error::{ErrorKind, causes};
pub use explain::{Answer, Earlier, Lookup};
pub use export::{
    AnnotationLevel, Annotations, ArchiveDest, ArchiveKind, ExportError, ExportImage, ImageForm,
    ImportOptions, LoadError, MediaTypes, PushForm, export, export_as, import, load, push,
    push_target,
};
pub use heap::limit_heaps;
pub use history::RecordedEvent;
pub use image::{
    Compared, FileChange, HistoryRow, ImageContents, ImageDetails, ImageDiff, ImageError,
    ImageSummary, LayerContents, LayerFile, PathChange, Removed, ValueChange, Wasted,
};
pub use layer::{
    ApplyError, CompressError, Compression, DecompressError, Estargz, GzipWriter, LayerStats,
    LimitedReader, Limits as ArchiveLimits, StreamWriter, TarEntry, TarError, TarKind, TarReader,
    TarWriter, UnpackError, WriteError, ZstdWriter, apply_layer, decompress, diff_id,
    gzip_level_writer, gzip_writer, merge_layer, write_estargz, write_layer, zstd_writer,
};
pub use limits::{Bound, CpuTime, LimitError, Limits, StepUsage, ULIMIT_NAMES, Ulimit};
pub use op::{
    CDI_DIRS, CopyError, CopyInput, CopyStats, MakeDirError, PROXY_NAMES, SelectError, Selection,
    copy, make_dir, select, selection_digest,
};
pub use output::{OutputDest, OutputKind, OutputSpec, unpack_tree};
pub use progress::{
    EVENT_BUFFER, Event, Events, Failure, Finished, OutputBytes, OutputStream, PlannedStep,
    PushedImage, Saved, SourceDiagnostic, SourceText, StepOutcome, Transfer, TransferPhase,
};
pub use registry::{
    CredentialError, DEFAULT_TRANSFERS, DocumentError, Keeper, ManifestName, Patience, Referrer,
    Registry, RegistryError, Repository, forget_credentials, keep_credentials, registry_host,
    stored_credentials,
};
pub use request::{BuildRequest, ContextInput, Credentials, DockerfileInput, NamedTarget};
pub use rootfs::{
    DirEntry, ExportError as TreeError, Follow, InodeId, Kind, LayeredRoot, Metadata, Node, Owner,
    Resolved, RootError, Time, UpperError, UserError, export_dir, export_tar, resolve_owner,
    resolve_user,
};
pub use run_image::{RunRequest, Volume};
pub use sandbox::{
    Control, DeviceNode, Dns, Ended, Exit, HELPER_ARG, MountSource, Network, OverlayDirs,
    PortForward, Sandbox, SandboxError, SandboxMount, SandboxSpec, SecretVariable, StdioMode,
    helper_main,
};
pub use secret::{SECRET_LIMIT, Secret, Secrets};
pub use shell::{ShellCommand, ShellError, ShellRequest};
pub use source::{
    Distribution, GitError, HttpError, Layer, LayerSource, PullPolicy, RemoteError, ResolvedImage,
    SourceError, Sources, Target, built_layer, read_image, read_target, write_image,
};
pub use ssh::SshAgents;
pub use telemetry::{TelemetryConfig, TelemetryError, TraceParent};
pub use userns::{IdMapping, UsernsError, enter_user_namespace, has_single_id, lacks_privilege};
pub use verify::{FileDifference, StepDifference};
