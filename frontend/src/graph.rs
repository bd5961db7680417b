//! The build graph: what must be done, in an order that can be followed, and nothing else.
//!
//! Invariants: an input's id is smaller than its user's, so the list of vertices is topological
//! by construction. An [`Op`] holds only what can change its result; names, spans and progress
//! groups live in [`Step`], so they cannot enter a cache key by mistake. ENV, LABEL, CMD, USER and
//! their like make no vertex: they change the output's config and the ops after them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Diagnostic, ImageConfig, Platform, Span, UrlCredentials};

/// Index of a vertex in [`BuildGraph::vertices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct VertexId(pub usize);

/// A Dockerfile lowered for one target, ready to be solved.
#[derive(Clone, Debug, Serialize)]
pub struct BuildGraph {
    /// Topological: inputs come before their users.
    pub vertices: Vec<Vertex>,
    /// One an instruction of each stage that the target reaches, in the order of the file.
    pub steps: Vec<Step>,
    /// The image asked for.
    pub output: Output,
    /// Further images of the same build: for other platforms, of other targets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub more_outputs: Vec<Output>,
    /// What the check rules and deprecations have to say.
    pub warnings: Vec<Diagnostic>,
    /// `SOURCE_DATE_EPOCH`, where it is given.
    pub source_date_epoch: Option<SourceDateEpoch>,
}

impl BuildGraph {
    /// Returns all images asked for.
    pub fn outputs(&self) -> impl Iterator<Item = &Output> {
        std::iter::once(&self.output).chain(&self.more_outputs)
    }
}

/// The time that stands for all times of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceDateEpoch {
    /// Seconds since 1970.
    Seconds(i64),
    /// `context`: the time of the build's context (its commit, or its newest file).
    Context,
}

/// One unit of work with the results it needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Vertex {
    /// What is done.
    pub op: Op,
    /// Results needed. For ops that change a root (Copy, MakeDir, Run, Merge) the first is that
    /// root.
    pub inputs: Vec<VertexId>,
    /// Work that must be done first though nothing of it is used (`FROM --after`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<VertexId>,
    /// The platform that the work is done for.
    pub platform: Platform,
}

/// One instruction as progress shows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Step {
    /// Stage name or number, `None` where the file has but one stage.
    pub stage: Option<String>,
    /// 1-based position within its stage.
    pub number: usize,
    /// Instructions in its stage, FROM included.
    pub total: usize,
    /// The instruction on one line, as written (`RUN npm install`).
    pub text: String,
    /// Where it stands.
    pub span: Span,
    /// The vertex that does its work; `None` for instructions that only change the config.
    pub vertex: Option<VertexId>,
    /// What runs commands in shell form at that point, if not `/bin/sh -c`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

/// The image that comes out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Output {
    /// The root filesystem.
    pub vertex: VertexId,
    /// The platform that it is for.
    pub platform: Platform,
    /// Final config: `history` and `rootfs` hold the base's part only, `created` is unset.
    pub config: ImageConfig,
    /// What this build adds to the history, oldest first.
    pub history: Vec<HistoryStep>,
}

/// A history entry to be, once its layer is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct HistoryStep {
    /// The instruction as BuildKit writes it, without build-argument values.
    pub created_by: String,
    /// `MAINTAINER` at that point.
    pub author: Option<String>,
    /// The vertex whose layer the entry stands for; `None` makes an `empty_layer`.
    pub vertex: Option<VertexId>,
}

/// What a vertex does. Closed: match it without a wildcard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Op {
    /// The empty root.
    Scratch,
    /// An image's root.
    Image(ImageOp),
    /// Files handed in by the user. Has no key of its own: its users are keyed by what they select.
    Context(ContextOp),
    /// A git checkout.
    Git(GitOp),
    /// One downloaded file, at the root, named [`HttpOp::file_name`].
    Http(HttpOp),
    /// COPY and ADD onto input 0.
    Copy(CopyOp),
    /// WORKDIR's directory in input 0.
    MakeDir(MakeDirOp),
    /// A command run with input 0 as its root.
    Run(RunOp),
    /// The layer of input 1 put on top of input 0 (`COPY --link`).
    Merge,
}

/// See [`Op::Image`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ImageOp {
    /// As asked for, with default registry and tag made explicit.
    pub reference: String,
    /// `sha256:<hex>` of the manifest that it resolved to.
    pub digest: String,
}

/// See [`Op::Context`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ContextOp {
    /// `None` is the build's main context, `Some` a directory given by `--build-context`.
    pub name: Option<String>,
}

/// See [`Op::Git`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct GitOp {
    /// Remote without fragment, query or credentials.
    pub url: String,
    /// Branch, tag or commit; `None` is the remote's HEAD.
    pub reference: Option<String>,
    /// Directory of the checkout that becomes the root.
    pub subdir: Option<String>,
    /// Commit that the reference must resolve to (a prefix of at least 7 digits).
    pub checksum: Option<String>,
    /// Whether `.git` stays.
    pub keep_git_dir: bool,
    /// Whether submodules are fetched.
    pub submodules: bool,
    /// Whether files get the time of the checkout in place of the commit's.
    pub checkout_time: bool,
    /// What the URL gave to get in with; in no key and shown nowhere.
    #[serde(skip)]
    pub credentials: Option<UrlCredentials>,
}

/// See [`Op::Http`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct HttpOp {
    /// `http` or `https`, without credentials.
    pub url: String,
    /// `sha256:<hex>` that the body must have.
    pub checksum: Option<String>,
    /// The name that the file gets: the last part of the URL's path, decoded.
    pub file_name: String,
    /// What the URL gave to get in with; in no key and shown nowhere.
    #[serde(skip)]
    pub credentials: Option<UrlCredentials>,
}

impl HttpOp {
    /// Returns the download of `url` as a build context, named as BuildKit names it; `None` for
    /// what is no URL of a file.
    #[must_use]
    pub fn context(url: &str) -> Option<Self> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return None;
        }
        let (url, credentials) = crate::url_credentials::split(url);
        Some(Self { url, checksum: None, file_name: "context".to_owned(), credentials })
    }
}

/// See [`Op::Copy`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct CopyOp {
    /// In the order written.
    pub sources: Vec<CopySource>,
    /// Absolute path in the root, cleaned, without trailing slash.
    pub destination: String,
    /// The destination was written with a trailing slash, or is `.` or `/`: it names a directory.
    pub destination_is_dir: bool,
    /// `--chown` as written, expanded; names are looked up in the root.
    pub owner: Option<String>,
    /// `--chmod`.
    pub mode: Option<CopyMode>,
    /// `--exclude` patterns, by the rules of `.dockerignore`.
    pub exclude: Vec<String>,
    /// `--parents`.
    pub parents: bool,
    /// What becomes of archives.
    pub unpack: Unpack,
}

/// One source of a COPY or ADD.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopySource {
    /// A path or pattern in another vertex's root.
    Path {
        /// Index into [`Vertex::inputs`].
        input: usize,
        /// Relative to that root, cleaned and clamped (`../x` is `x`), pattern characters of Go's
        /// `filepath.Match` live; with `--parents` a `/./` pivot may remain.
        path: String,
        /// False takes the path literally (a file fetched by URL).
        wildcard: bool,
    },
    /// A heredoc's file.
    Inline {
        /// The heredoc's word: the file's name when the destination is a directory.
        name: String,
        /// What it holds, expanded.
        content: String,
    },
}

/// `--chmod`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopyMode {
    /// Up to 0o7777.
    Octal(u32),
    /// `u=rwX,go=rX`, checked when parsed.
    Symbolic(String),
}

/// What becomes of archives among the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unpack {
    /// COPY, and ADD with `--unpack=false`: copied as they are.
    Never,
    /// ADD of local files: unpacked when the content is an archive.
    Archives,
}

/// See [`Op::MakeDir`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct MakeDirOp {
    /// Absolute, cleaned. Made with its parents, mode 0755; an existing one stays as it is.
    pub path: String,
    /// Owner of what is made, as in the config (`USER` before it); empty is root. Names are looked
    /// up in the root.
    pub owner: String,
}

/// See [`Op::Run`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RunOp {
    /// The whole argument vector, shell included.
    pub args: Vec<String>,
    /// Image environment and visible build arguments; proxies given without ARG are not here.
    pub env: BTreeMap<String, String>,
    /// Absolute working directory.
    pub cwd: String,
    /// As in the config; empty is root.
    pub user: String,
    /// In the order written. Inputs of bind and cache mounts are named by index.
    pub mounts: Vec<RunMount>,
    /// Which network the command sees.
    pub network: RunNetwork,
    /// `--security=insecure`; needs an entitlement.
    pub insecure: bool,
    /// Files of heredocs with their own interpreter: made executable under [`HEREDOC_DIR`] for
    /// the command only.
    pub files: Vec<RunFile>,
    /// `--device` requests, as written.
    pub devices: Vec<String>,
    /// The name of the machine that the command sees (`BUILDKIT_SANDBOX_HOSTNAME`); `None` is the
    /// sandbox's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// Where the files of [`RunOp::files`] are mounted while the command runs (as BuildKit does).
pub const HEREDOC_DIR: &str = "/dev/pipes";

/// A heredoc handed to a command as a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RunFile {
    /// Name in [`HEREDOC_DIR`].
    pub name: String,
    /// What it holds.
    pub content: String,
}

/// `--network`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunNetwork {
    /// The build's choice: a private network with a way out unless told otherwise.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's; needs an entitlement.
    Host,
}

/// `--mount`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RunMount {
    /// Absolute path in the root. Empty for a secret handed over by `env` alone.
    pub target: String,
    /// What is mounted.
    pub kind: MountKind,
}

/// The `type=` of a mount with its options.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum MountKind {
    /// Part of another root; writes are dropped after the command.
    Bind {
        /// Index into [`Vertex::inputs`].
        input: usize,
        /// Path in that root, cleaned.
        source: String,
        /// `rw`.
        writable: bool,
    },
    /// A directory that outlives the build.
    Cache {
        /// Defaults to the target.
        id: String,
        /// What several commands do with it at once.
        sharing: CacheSharing,
        /// Initial content: index into [`Vertex::inputs`] and path.
        from: Option<(usize, String)>,
        /// `ro`.
        read_only: bool,
        /// Mode of a new directory.
        mode: u32,
        /// Owner of a new directory.
        uid: u32,
        /// Group of a new directory.
        gid: u32,
    },
    /// Memory, gone after the command.
    Tmpfs {
        /// Limit in bytes.
        size: Option<u64>,
    },
    /// A secret's content as a file, or in the environment, or both.
    Secret {
        /// The name that `--secret id=` gave.
        id: String,
        /// Fails the command when absent.
        required: bool,
        /// Environment variable to set.
        env: Option<String>,
        /// Mode of the file.
        mode: u32,
        /// Owner of the file.
        uid: u32,
        /// Group of the file.
        gid: u32,
    },
    /// An ssh agent's socket.
    Ssh {
        /// The name that `--ssh` gave.
        id: String,
        /// Fails the command when absent.
        required: bool,
        /// Mode of the socket.
        mode: u32,
        /// Owner of the socket.
        uid: u32,
        /// Group of the socket.
        gid: u32,
    },
}

/// What several commands do with one cache mount at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheSharing {
    /// All write at once.
    #[default]
    Shared,
    /// Each concurrent writer gets one of its own.
    Private,
    /// One waits for the other.
    Locked,
}
