//! Dockerfile text to build graph.
//!
//! Invariants: nothing here does I/O, reads a clock or an environment, or is unsafe. Parsing does
//! not stop at the first error. The frontend names the images that it needs and never fetches.

#![forbid(unsafe_code)]

mod ast;
mod check;
mod chmod;
mod diagnostic;
mod directive;
mod dump;
mod flags;
mod format;
mod git_url;
mod glob;
mod go_text;
mod graph;
mod heredoc;
mod ignore;
mod image_config;
mod instruction;
mod json;
mod lines;
mod lower;
mod merge;
mod nearest;
mod platform;
mod ports;
mod reference;
mod signal;
mod span;
mod stage;
mod syntax;
mod url_credentials;
mod words;

pub use ast::{
    ArgDeclaration, Command, Dockerfile, HealthcheckSpec, Heredoc, Instruction, MountField,
    MountFlag, Onbuild, Pair, Run, RunFlags, Stage, StageHead, Statement, Transfer, TransferSource,
    Word,
};
pub use check::{
    CheckOptions, CheckRequest, Checked, Edit, Finding, Mended, Origin, Rule, RuleSet, Target,
    UnknownRule, check, fix, lint, rule, rules, targets,
};
pub use diagnostic::{Diagnostic, Extent, Severity};
pub use directive::Directives;
pub use dump::dump_ast;
pub use format::format;
pub use git_url::{GitSource, GitUrlError, parse_git_source};
pub use glob::{BadPattern, match_pattern};
pub use graph::{
    BuildGraph, CacheSharing, ContextOp, CopyMode, CopyOp, CopySource, GitOp, HEREDOC_DIR,
    HistoryStep, HttpOp, ImageOp, MakeDirOp, MountKind, Op, Output, RunFile, RunMount, RunNetwork,
    RunOp, SourceDateEpoch, Step, Unpack, Vertex, VertexId,
};
pub use ignore::{IgnoreError, IgnoreReason, IgnoreRules};
pub use image_config::{Empty, Healthcheck, HistoryEntry, ImageConfig, RootFs, RunConfig};
pub use lower::{
    BaseImage, LowerOptions, Lowered, NamedContext, Outline, OutlineArg, OutlineMount,
    ResolvedBase, base_images, faults, image_span, lower, outline,
};
pub use merge::merge;
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
pub use span::Span;
pub use stage::{Parsed, parse, parse_with};
pub use url_credentials::{UrlCredentials, mask_urls, redact_url};
pub use words::{WordError, process_word, process_words};
