//! Dockerfile text to build graph.
//!
//! Invariants: nothing here does I/O, reads a clock or an environment, or is unsafe. Parsing does
//! not stop at the first error. The frontend names the images that it needs and never fetches.

#![forbid(unsafe_code)]

mod diagnostic;
mod graph;
mod image_config;
mod platform;
mod span;

pub use diagnostic::{Diagnostic, Severity};
pub use graph::{
    BuildGraph, CacheSharing, ContextOp, CopyMode, CopyOp, CopySource, GitOp, HEREDOC_DIR,
    HistoryStep, HttpOp, ImageOp, MakeDirOp, MountKind, Op, Output, RunFile, RunMount, RunNetwork,
    RunOp, Step, Unpack, Vertex, VertexId,
};
pub use image_config::{Empty, Healthcheck, HistoryEntry, ImageConfig, RootFs, RunConfig};
pub use platform::{Platform, PlatformError};
pub use span::Span;
